#!/usr/bin/python3
"""PID 1 of the test guest: mounts, modules, soft-RoCE devices; then waits for one byte, runs /host/job and powers off."""

import ctypes
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
FINIT_MODULE = 313  # x86-64
POWER_OFF = 0x4321FEDC


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print("init:", " ".join(command), "->", done.returncode, done.stderr.strip(), flush=True)


def option(name: str, default: str) -> str:
    words = Path("/proc/cmdline").read_text().split()
    return next((word.split("=", 1)[1] for word in words if word.startswith(name + "=")), default)


def devices() -> None:
    """Addresses on every interface of one /16 and a soft-RoCE device on each, named as mlx5 devices are."""
    node = int(option("epbox.node", "0"))
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    libc.sethostname(b"guest%d" % node, 6)
    write("/etc/hosts", "127.0.0.1 localhost\n10.77.0.1 guest0\n10.77.1.1 guest1\n")
    run("ip", "link", "set", "lo", "up")
    for name, value in (("accept_local", 1), ("rp_filter", 0), ("arp_ignore", 1), ("arp_announce", 2)):
        write(f"/proc/sys/net/ipv4/conf/all/{name}", str(value))
        write(f"/proc/sys/net/ipv4/conf/default/{name}", str(value))
    # In bus order: rail i is the i-th network function, whatever name the kernel gave it.
    functions = [path for path in Path("/sys/class/net").iterdir() if (path / "device").exists()]
    for rail, name in enumerate(path.name for path in sorted(functions, key=lambda path: str((path / "device").resolve()))):
        write(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "0")
        run("ip", "address", "add", f"10.77.{node}.{rail + 1}/16", "dev", name)
        run("ip", "link", "set", name, "up")
        run("rdma", "link", "add", f"rxe{rail}", "type", "rxe", "netdev", name)
        run("rdma", "dev", "set", f"rxe{rail}", "name", f"mlx5_{rail}")


def main() -> None:
    mount("proc", "/proc", "proc")
    mount("sys", "/sys", "sysfs")
    mount("dev", "/dev", "devtmpfs")
    mount("shm", "/dev/shm", "tmpfs")
    mount("tmp", "/tmp", "tmpfs")
    mount("run", "/run", "tmpfs")
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    for path in sorted(Path("/modules").iterdir()):
        with open(path, "rb") as stream:
            if libc.syscall(FINIT_MODULE, stream.fileno(), b"", 0):
                print("init: module", path.name, os.strerror(ctypes.get_errno()), flush=True)
    devices()
    with open("/dev/ttyS1", "r+b", buffering=0) as control:
        import termios
        import tty

        tty.setraw(control.fileno(), termios.TCSANOW)
        control.write(b"R")
        # An end of file here would spin: anything but the go byte ends the guest.
        if control.read(1) != b"g":
            return
    mount("host", "/host", "9p", "trans=virtio,version=9p2000.L,msize=262144")
    with open("/host/output", "wb") as output:
        code = subprocess.run(
            ["/bin/sh", "/host/job"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd="/tmp"
        ).returncode
    write("/host/code", str(code))


try:
    main()
except BaseException:
    traceback.print_exc()
    sys.stdout.flush()
    time.sleep(0.2)
os.sync()
libc.reboot(POWER_OFF)
