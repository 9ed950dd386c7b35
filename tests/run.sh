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

step "Workflow files and expressions, compared with GitHub's own implementations"
npm ci --prefix tests/npm --silent
cargo test --locked -p mayfly-tests --test language-workflows -- --nocapture
cargo test --locked -p mayfly-tests --test language-expressions -- --nocapture

export MAYFLY_STATE="${MAYFLY_STATE:-$HOME/.cache/mayfly/tests}"
for image in minimal standard; do
    step "Image $image, in $MAYFLY_STATE"
    "${CARGO_TARGET_DIR:-target}/release/mayfly" image build "$image"
done

# The scenarios run themselves again under softkvm where KVM is unusable.
export PATH="$(realpath "${CARGO_TARGET_DIR:-target}/release"):$PATH"
# A group takes one to six minutes on two quiet cores. An emulated machine was seen to hang; a
# group that does not end is run once more, and that is said. One that fails is not. Each runs in a
# session of its own, so that nothing of one that hung goes on beside the next.
limit=720
session=
end_session() { [ -z "$session" ] || pkill -KILL -s "$session" || true; }
trap end_session EXIT
group() {
    local status=0
    setsid timeout -k 10 "$limit" cargo test --locked -p mayfly-tests --test "$1" &
    session=$!
    wait "$session" || status=$?
    end_session
    session=
    return "$status"
}
for name in doctor exec run workflows isolation secrets faults standard images; do
    step "End-to-end, real guests: $name"
    status=0
    group "$name" || status=$?
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        step "HUNG for $limit s: $name, once more"
        status=0
        group "$name" || status=$?
    fi
    [ "$status" = 0 ] || failed="${failed:-} $name"
done
if [ -n "${failed:-}" ]; then
    echo "tests/run.sh: failed:$failed" >&2
    exit 1
fi

step "All passed"
