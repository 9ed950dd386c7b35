#!/usr/bin/env bash
# Packs the programs of target/release (deploy/build.sh) as target/debian/mayfly_VERSION_ARCH.deb, and prints
# its path. cargo-deb is taken from PATH, or built once (two minutes) into ~/.cache/mayfly/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

tools="${XDG_CACHE_HOME:-$HOME/.cache}/mayfly/tools"
PATH="$PATH:$tools/bin"
command -v cargo-deb >/dev/null ||
    cargo install --quiet --locked --no-default-features --root "$tools" cargo-deb@3 >&2
for program in mayfly mayfly-vmm mayfly-guest softkvm; do
    [ -x "${CARGO_TARGET_DIR:-target}/release/$program" ] ||
        { echo "package.sh: no $program in target/release; run deploy/build.sh first" >&2; exit 3; }
done
cargo-deb deb --quiet --manifest-path runner/Cargo.toml --no-build --no-strip "$@"
