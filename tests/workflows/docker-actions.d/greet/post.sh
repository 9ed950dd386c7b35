#!/bin/sh
echo "post of $STATE_kept${TOKEN:+ with $TOKEN}"
