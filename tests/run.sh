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

step "A worker against a strict GitHub on loopback"
cargo test --locked -p mayfly-tests --test github
step "The supervisor as a process against the same GitHub"
cargo test --locked -p mayfly-tests --test supervisor

step "Workflow files and expressions, compared with GitHub's own implementations"
npm ci --prefix tests/npm --silent
npm ci --prefix tests/toolkit --silent
cargo test --locked -p mayfly-tests --test language-workflows -- --nocapture
cargo test --locked -p mayfly-tests --test language-expressions -- --nocapture

export MAYFLY_STATE="${MAYFLY_STATE:-$HOME/.cache/mayfly/tests}"
for image in minimal standard; do
    step "Image $image, in $MAYFLY_STATE"
    "${CARGO_TARGET_DIR:-target}/release/mayfly" image build "$image"
done

# The scenarios run themselves again under softkvm where KVM is unusable.
export PATH="$(realpath "${CARGO_TARGET_DIR:-target}/release"):$PATH"
cargo test --locked -p mayfly-tests --no-run

# Two groups run at a time, the longest first: an emulated machine has one CPU. Two such machines must
# not use one state folder, so each of the two slots has its own. A group takes one to six minutes. An
# emulated machine was seen to hang; a group that does not end is run once more, and that is said. One
# that fails is not. Each runs in a session of its own, so that nothing of one that hung goes on beside
# the next; what it says is shown when it ends.
groups=(workflows containers faults run exec serve secrets images network toolkit isolation worker pins operations doctor)
limit=720
logs=$(mktemp -d)
states=("$MAYFLY_STATE" "$MAYFLY_STATE-2")
declare -A slot_of name_of

step "A second state folder, ${states[1]}"
rm -rf "${states[1]}"
cp -a --reflink=auto "${states[0]}" "${states[1]}"

start() { # NAME SLOT [APPENDING]
    step "End-to-end, real guests: $1 begins"
    MAYFLY_STATE="${states[$2]}" setsid timeout -k 10 "$limit" \
        cargo test --locked -p mayfly-tests --test "$1" >>"$logs/$1" 2>&1 &
    name_of[$!]=$1
    slot_of[$!]=$2
}
end_session() { pkill -KILL -s "$1" || true; }
clean_up() {
    for session in "${!name_of[@]}"; do end_session "$session"; done
    rm -rf "$logs" "${states[1]}"
}
trap clean_up EXIT

# Waits for a group to end, and starts it again in its slot if it hung; else the slot is `free`.
settle() {
    local session name slot status=0
    wait -n -p session "${!name_of[@]}" || status=$?
    name=${name_of[$session]} slot=${slot_of[$session]}
    end_session "$session"
    unset "name_of[$session]" "slot_of[$session]"
    if { [ "$status" = 124 ] || [ "$status" = 137 ]; } && [ ! -e "$logs/$name.hung" ]; then
        touch "$logs/$name.hung"
        step "HUNG for $limit s: $name, once more"
        start "$name" "$slot"
        free=
        return
    fi
    step "End-to-end, real guests: $name ended with $status"
    cat "$logs/$name"
    [ "$status" = 0 ] || failed="${failed:-} $name"
    free=$slot
}

free=0
for name in "${groups[@]}"; do
    while [ -z "$free" ]; do settle; done
    start "$name" "$free"
    free=
    [ "${#name_of[@]}" -gt 1 ] || free=1
done
while [ "${#name_of[@]}" -gt 0 ]; do settle; done
if [ -n "${failed:-}" ]; then
    echo "tests/run.sh: failed:$failed" >&2
    exit 1
fi

step "All passed"
