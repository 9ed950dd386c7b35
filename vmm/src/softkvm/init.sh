#!/bin/busybox sh
# First program of the machine that softkvm emulates: loads the modules, lays this machine's file
# system under a throw-away overlay and hands over to the supervisor (`softkvm --inside`).

die() {
    echo "softkvm: init: $1"
    /bin/busybox poweroff -f
}

/bin/busybox mkdir -p /proc /sys /dev /lower /upper /new
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

while read -r module; do
    insmod "/modules/$module" || die "cannot load the kernel module $module"
done < /modules/load

mount -t virtiofs host /lower || die "cannot mount the file system of the host"
mount -t tmpfs -o mode=755,size=60% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new \
    || die "cannot lay the overlay"

mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/.softkvm
mount --move /lower /new/.softkvm
mount --move /proc /new/proc
mount --move /sys /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /new/dev/pts
mount -t tmpfs -o mode=1777 shm /new/dev/shm
mount -t cgroup2 cgroup /new/sys/fs/cgroup
mount -t debugfs debugfs /new/sys/kernel/debug
ln -sf /proc/self/fd /new/dev/fd
ln -sf /proc/self/fd/0 /new/dev/stdin
ln -sf /proc/self/fd/1 /new/dev/stdout
ln -sf /proc/self/fd/2 /new/dev/stderr
[ -c /new/dev/kvm ] || die "the emulated CPU has no KVM"
chmod 666 /new/dev/kvm

ip link set lo up
if [ -e /sys/class/net/eth0 ] || [ -e /new/sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip addr add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
fi

# The path of the supervisor comes as hexadecimal digits: it may hold any byte.
for word in $(cat /new/proc/cmdline); do
    case $word in
        softkvm.supervisor=*) supervisor=$(printf '%b' "$(echo "${word#*=}" | sed 's/../\\x&/g')") ;;
    esac
done
exec switch_root /new "$supervisor" --inside
