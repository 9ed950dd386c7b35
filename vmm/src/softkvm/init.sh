#!/bin/busybox sh
# First program of the machine that softkvm emulates: loads the modules, finds this machine's file
# system and starts the supervisor (`softkvm --inside`) from it, which does the rest.

die() {
    echo "softkvm: init: $1"
    /bin/busybox poweroff -f
}

/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# The archive has no device node, so that the kernel could not open its console before.
exec < /dev/null > /dev/console 2>&1

while read -r module; do
    insmod "/modules/$module" || die "cannot load the kernel module $module"
done < /modules/load
rm -r /modules
[ -c /dev/kvm ] || die "the emulated CPU has no KVM"

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
fi

# The path of the supervisor comes as hexadecimal digits: it may hold any byte.
for word in $(cat /proc/cmdline); do
    case $word in
        softkvm.supervisor=*) supervisor=$(printf '%b' "$(echo "${word#*=}" | sed 's/../\\x&/g')") ;;
    esac
done

mount -t virtiofs host /host || die "cannot mount the file system of the host"
mount --move /proc /host/proc || die "the host has no folder /proc"
mount --move /sys /host/sys || die "the host has no folder /sys"
mount --move /dev /host/dev || die "the host has no folder /dev"
# Where the supervisor puts what is to be thrown away and builds the root of the command: a folder
# of no use to anyone, so that it hides nothing of the host.
mount -t tmpfs -o mode=755,size=60% scratch /host/sys/kernel/debug || die "no place for a tmpfs"
[ -x "/host$supervisor" ] || die "this user may not run $supervisor"
exec chroot /host "$supervisor" --inside
