#!/usr/bin/env bash
# Builds Mayfly's programs into target/release: mayfly, mayfly-vmm, softkvm, and the guest agent,
# which is linked statically because it runs before the guest has a root file system.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

cargo build --release --locked --bin mayfly --bin mayfly-vmm --bin softkvm
# An explicit target keeps crt-static away from build scripts and procedural macros.
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked -p mayfly-guest --target x86_64-unknown-linux-gnu
built="$target/x86_64-unknown-linux-gnu/release/mayfly-guest"
cmp -s "$built" "$target/release/mayfly-guest" || install -m 755 "$built" "$target/release/mayfly-guest"
