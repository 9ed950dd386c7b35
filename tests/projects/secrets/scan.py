"""Looks for secrets wherever root in a sandbox can look, without holding their text.

Needles are hex of their bytes XOR 0xa5 (needles.json). What is read is XORed too and then searched,
so that nothing of this program ever matches unless it read a secret. Prints what was found where,
how much of each kind was read, and HOLD-n last.
"""

import glob
import json
import os
import stat
import struct
import sys

KEY = bytes(value ^ 0xA5 for value in range(256))
CHUNK = 4 << 20
NEEDLES = {name: bytes.fromhex(text) for name, text in json.load(open("needles.json")).items()}
OVERLAP = max(map(len, NEEDLES.values())) - 1
ZERO = bytes(CHUNK)

found = {}
looked = {}


def search(kind, where, data):
    looked[kind] = looked.get(kind, 0) + len(data)
    if data == ZERO:
        return
    data = data.translate(KEY)
    for name, needle in NEEDLES.items():
        if needle in data:
            found.setdefault((name, kind), where)


def stretch(kind, where, descriptor, start, end):
    """Searches a stretch of a file; what cannot be read is left out."""
    while start < end:
        try:
            data = os.pread(descriptor, min(CHUNK, end - start), start)
        except OSError:
            # One page may be out of reach (device memory), the next not.
            start += 4096 if end - start <= 1 << 16 else 1 << 16
            continue
        if not data:
            return
        search(kind, where, data)
        if start + len(data) >= end:
            return
        start += max(len(data) - OVERLAP, 1)


def whole(kind, path, limit=1 << 40):
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        stretch(kind, path, descriptor, 0, limit)
    finally:
        os.close(descriptor)


def processes():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        whole("environ", f"/proc/{pid}/environ")
        whole("cmdline", f"/proc/{pid}/cmdline")
        try:
            maps = open(f"/proc/{pid}/maps").read().splitlines()
            memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        except OSError:
            continue
        for line in maps:
            fields = line.split()
            # Read-only files of the image are the same before any secret came.
            if "r" in fields[1] and not ("w" not in fields[1] and fields[-1].startswith("/usr/")):
                start, end = (int(part, 16) for part in fields[0].split("-"))
                stretch("memory", f"{fields[-1]} of process {pid}", memory, start, end)
        os.close(memory)


def files():
    for top in ("/home", "/root", "/tmp", "/run", "/dev/shm", "/etc", "/opt", "/srv", "/var"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    regular = stat.S_ISREG(os.lstat(path).st_mode)
                except OSError:
                    continue
                if regular:
                    whole("file", path)


def disks():
    """The beginning of each; the whole private disk is looked through from the host."""
    for path in sorted(glob.glob("/dev/vd*")):
        whole("disk", path, 96 << 20)


def physical():
    """All memory through the kernel's own map of it, where it lets root read that."""
    whole("/dev/mem", "/dev/mem", 1 << 20)
    try:
        core = os.open("/proc/kcore", os.O_RDONLY)
        header = os.pread(core, 64, 0)
        place, size, count = struct.unpack_from("<Q", header, 32) + struct.unpack_from("<HH", header, 54)
        table = os.pread(core, size * count, place)
    except OSError as error:
        print("kcore:", error)
        return
    for index in range(count):
        kind, _, offset, virtual, real, length = struct.unpack_from("<IIQQQQ", table, index * size)
        # PT_LOAD of the direct map: those have a physical address, and are not the kernel's text.
        if kind == 1 and real != 2**64 - 1 and virtual < 0xFFFFFFFF80000000 and length <= 1 << 34:
            stretch("physical", f"physical {real:#x}", core, offset, offset + length)
    os.close(core)


step = sys.argv[1]
print("user", os.geteuid())
for look in (processes, files, disks, physical):
    look()
print("looked", json.dumps(looked))
for (name, kind), where in sorted(found.items()):
    print(f"FOUND {name} {kind} {where}")
print(f"HOLD-{step}", flush=True)
