#!/bin/bash
# A life of the Debian package on a fresh root: installed, served, installed over itself, removed, purged.
# Runs in a mount and PID namespace of its own; what fails ends it, with the line.
#   package.sh ROOT DEB FOLDER IMAGES KEY
# ROOT: a Debian root, which stays as it is. FOLDER: config.toml and key, and where what is found goes.
set -euo pipefail
trap 'echo "package.sh: line $LINENO: $BASH_COMMAND" >&2' ERR
base=$1 deb=$2 folder=$3 images=$4 port=$5

work=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work"/{upper,work,root}
root=$work/root
mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp "$deb" "$root/tmp/mayfly.deb"
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$root" "$@"; }
# All that packages may leave: files with their owners and modes, users and groups.
picture() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/dpkg \) \
        -prune -o -printf '%p %U:%G %#m\n' | grep -Ev '^\./etc/(passwd|group|shadow|gshadow|subuid|subgid)-? ' | sort)
    for file in passwd group shadow gshadow subuid subgid; do
        echo "== $file"; cat "$root/etc/$file" 2>/dev/null || true
    done
}
say() { echo "== $*"; }

say fresh
# The group that udev makes on a real machine.
inside getent group kvm >/dev/null || inside groupadd --system kvm
picture >"$folder/before"

say installed
inside dpkg -i /tmp/mayfly.deb
inside id mayfly
inside id -nG mayfly | grep -qw kvm
[ "$(inside stat -c '%U %a' /var/lib/mayfly)" = "mayfly 700" ]
[ "$(inside stat -c '%U %a' /etc/mayfly/secrets)" = "root 700" ]
[ "$(inside getent passwd mayfly | cut -d: -f7)" = /usr/sbin/nologin ]
inside grep -q '^mayfly:' /etc/subuid
[ "$(inside readlink -f /usr/bin/mayfly)" = /usr/lib/mayfly/mayfly ]
inside mayfly --version
inside dpkg --verify mayfly
# Neither enabled nor started: it is not configured yet.
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/mayfly.service" ]

# What systemd does for the unit, as far as it can be had without systemd.
service() {
    local credentials=/run/credentials/mayfly.service
    mkdir -p "$root$credentials"
    install -m 400 -o "$(inside id -u mayfly)" "$root/etc/mayfly/secrets/app.pem" "$root$credentials/secrets_app.pem"
    chown "$(inside id -u mayfly)" "$root$credentials"; chmod 500 "$root$credentials"
    local variables
    mapfile -t variables < <(sed -n 's/^Environment=//p' "$root/usr/lib/systemd/system/mayfly.service" | tr ' ' '\n')
    inside env "${variables[@]}" CREDENTIALS_DIRECTORY=$credentials \
        setpriv --reuid mayfly --regid mayfly --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        sh -c "umask 0077; exec $(sed -n 's/^ExecStart=//p' "$root/usr/lib/systemd/system/mayfly.service") $*"
}
answers() { exec 3<>"/dev/tcp/127.0.0.1/$port" && exec 3>&-; } 2>/dev/null
say configured
cp "$folder/config.toml" "$root/etc/mayfly/config.toml"
install -m 600 "$folder/app.pem" "$root/etc/mayfly/secrets/app.pem"
# One image, as if this user had built it; its large files stay where they are.
images_of_service=$root/var/lib/mayfly/images
mkdir -p "$work"/images/{upper,work} "$images_of_service"
mount -t overlay -o "metacopy=on,lowerdir=$images,upperdir=$work/images/upper,workdir=$work/images/work" overlay "$images_of_service"
chown -R "$(inside id -u mayfly):$(inside id -g mayfly)" "$images_of_service"
service --check-config

say serving
service >"$folder/log" 2>&1 &
supervisor=$!
for _ in $(seq 300); do answers && break; sleep 0.1; done
for _ in $(seq 300); do
    code=0
    inside mayfly status >"$folder/status" || code=$?
    grep -q 'github:' "$folder/status" || break
    sleep 0.1
done
cat "$folder/status"
# Ready, or not only because this machine's KVM runs no guests.
[ "$code" = 0 ] || { [ "$code" = 1 ] && grep -q '^not ready' "$folder/status"; }
pgrep -u "$(inside id -u mayfly)" -f 'mayfly.* serve' >/dev/null
[ "$(stat -c %a "$root/var/lib/mayfly/serve/status.sock")" = 600 ]
pkill -TERM -u "$(inside id -u mayfly)" -f 'mayfly.* serve'
wait "$supervisor"
! pgrep -u "$(inside id -u mayfly)" >/dev/null

say "installed over itself"
before=$(sha256sum <"$root/etc/mayfly/config.toml")
inside dpkg -i /tmp/mayfly.deb
[ "$before" = "$(sha256sum <"$root/etc/mayfly/config.toml")" ]

say removed
umount "$images_of_service"
inside dpkg --remove mayfly
[ ! -e "$root/usr/lib/mayfly" ] && [ ! -e "$root/usr/bin/mayfly" ]
[ ! -e "$root/usr/lib/systemd/system/mayfly.service" ]
[ -e "$root/etc/mayfly/config.toml" ] && [ -d "$root/var/lib/mayfly/serve" ]
inside id mayfly >/dev/null

say purged
inside dpkg --purge mayfly
rm -rf "$root/run/credentials"
picture >"$folder/after"
say end
