#!/bin/sh
echo "remote main after $STATE_at"
