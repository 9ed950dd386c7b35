#!/usr/bin/env bash
# From a fresh Debian 12 machine with Rust to a GitHub workflow running in a microVM.
# Run again, it takes seconds. Works as root and as a user with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "1/4 Debian packages"
deploy/prerequisites.sh

step "2/4 Programs"
command -v cargo >/dev/null || { echo "quickstart: cargo is not in PATH; install Rust 1.91 or newer first" >&2; exit 3; }
deploy/build.sh

mayfly="${CARGO_TARGET_DIR:-target}/release/mayfly"
step "3/4 Image minimal"
"$mayfly" image build minimal

step "4/4 A workflow in a microVM (the first run also makes the snapshot)"
"$mayfly" run tests/workflows/hello.yml

cat <<TEXT

That was a microVM of its own, restored from a snapshot and thrown away. Next:
  $mayfly exec -- uname -a               one command in a fresh sandbox
  $mayfly run .github/workflows/ci.yml   a workflow of the repository you are in
  $mayfly doctor                         what this machine can do
TEXT
