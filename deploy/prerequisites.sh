#!/usr/bin/env bash
# Installs the Debian packages that Mayfly needs on this machine, after saying which.
#   prerequisites.sh [--tests]     --tests: also what the tests need
# Does nothing where all are there. Uses sudo when it is not root.
set -euo pipefail

want=(gcc libc6-dev git ca-certificates mmdebstrap e2fsprogs xz-utils)
[ "$(id -u)" = 0 ] || want+=(uidmap)
command -v npm >/dev/null || want+=(npm)
for argument in "$@"; do
    case "$argument" in
        --tests) want+=(dnsmasq-base erofs-utils jq nginx-light passt procps prometheus slirp4netns systemd) ;;
        *) echo "prerequisites.sh: unknown argument $argument" >&2; exit 2 ;;
    esac
done
# Without a KVM that runs Linux guests the machine is emulated (vmm/softkvm). Whether KVM is usable
# is known for sure only once mayfly is built, so the emulator is installed unless the CPU says VT-x or SVM.
if ! grep -qwE 'vmx|svm' /proc/cpuinfo || [ ! -e /dev/kvm ] || [ "${*:-}" = --tests ]; then
    want+=(qemu-system-x86 qemu-system-common busybox-static cpio)
fi

missing=()
for package in "${want[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
echo "Installing Debian packages: ${missing[*]}"
"${sudo[@]}" apt-get update -qq
# Tests start these programs themselves; the services that come with them stay off.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
for service in nginx prometheus; do
    case " ${missing[*]} " in
        *" $service"[\ -]*) "${sudo[@]}" systemctl disable --quiet "$service" 2>/dev/null || true ;;
    esac
done
