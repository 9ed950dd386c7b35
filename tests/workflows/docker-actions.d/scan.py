"""Looks for a text, given in parts, in the Docker engine's memory and files."""
import os
import subprocess
import sys

needle = "".join(sys.argv[1:]).encode()


def memory(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            area, rights = line.split()[:2]
            start, end = (int(part, 16) for part in area.split("-"))
            if not rights.startswith("rw"):
                continue
            try:
                mem.seek(start)
                if needle in mem.read(end - start):
                    return True
            except (OSError, ValueError, OverflowError):
                continue
    return False


def files(top):
    for folder, _, names in os.walk(top):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isfile(path) and os.path.getsize(path) < 1 << 26:
                with open(path, "rb") as file:
                    if needle in file.read():
                        yield path


pids = subprocess.run(["pgrep", "-x", "dockerd|containerd"], capture_output=True, text=True).stdout.split()
found = [pid for pid in pids if memory(pid)]
print(f"engine's processes with the secret: {len(found)} of {len(pids)}")
tops = ["/run/docker", "/run/containerd", "/var/lib/docker/containers", "/var/lib/docker/containerd"]
left = [path for top in tops for path in files(top)]
print(f"files with the secret: {len(left)}", *left)
