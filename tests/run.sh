#!/usr/bin/env bash
# Sets up what the tests need and runs all of them: format, clippy, docs, unit, end-to-end.
# Expensive things (an image, a snapshot, the emulator's kernel) are kept under ~/.cache/mayfly and
# made again where they are not there.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

step "Debian packages"
deploy/prerequisites.sh --tests

step "Format"
cargo fmt --all --check

step "Clippy"
cargo clippy --locked --workspace --all-targets -- -D warnings

step "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

step "Unit tests"
cargo test --locked --no-fail-fast --workspace --exclude mayfly-tests

step "Programs"
deploy/build.sh

export MAYFLY_STATE="${MAYFLY_STATE:-$HOME/.cache/mayfly/tests}"
step "Image minimal, in $MAYFLY_STATE"
"${CARGO_TARGET_DIR:-target}/release/mayfly" image build minimal

# The scenarios run themselves again under softkvm where KVM is unusable.
export PATH="$(realpath "${CARGO_TARGET_DIR:-target}/release"):$PATH"
step "End-to-end: real guests"
cargo test --locked --no-fail-fast -p mayfly-tests

step "All passed"
