#!/bin/sh
echo "remote pre"
echo "at=pre" >> "$GITHUB_STATE"
