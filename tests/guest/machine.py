"""One emulated host: 16 CPUs in 2 NUMA nodes, PCIe switches, 3D controllers beside network functions; or a smaller one.

A guest boots once a node index; its state is saved after the soft-RoCE devices are up, and every test starts from there,
so a test may offline CPUs, fill a node or rename a device.
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.guest import assets, disk

#: Boot arguments that save seconds under emulation without changing what is tested.
APPEND = (
    "console=ttyS0 panic=-1 rdinit=/init quiet mitigations=off nokaslr tsc=reliable "
    "initcall_blacklist=crypto_kdf108_init cryptomgr.notests=1 "
    # On a busy host ticks come too late for the kernel's test of its timer, and what it tries then hangs.
    "no_timer_check "
    # Handed to init as environment: Python starts before the kernel has random numbers.
    "PYTHONHASHSEED=0"
)
#: A boot takes 15 s, a job seconds; on a busy machine ten times as long. These are the limits of a hang.
BOOT_S, JOB_S = 400.0, 600.0
T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """What is emulated: `cpus` in two sockets and NUMA nodes; a node's pairs of GPU and NIC and its memory; QEMU's CPU model; a disk."""

    cpus: int = 16
    threads: int = 2
    pairs: int = 4
    node_mib: int = 1280
    cpu: str = "Nehalem"
    disk: Path | None = None


HOST = Shape()


@dataclass(frozen=True)
class Outcome:
    """What a job in the guest left: its exit code and its output."""

    code: int
    output: str
    share: Path


class GuestError(Exception):
    """The guest did not come up or did not finish; the console's end is in the text."""


def _node_devices(node: int, index: int, pairs: int) -> list[str]:
    """Host bridge -> root port -> switch with GPU and NIC pairs; pair p of NUMA node `node` is rail pairs * node + p."""
    bus = 0x20 + 0x40 * node
    options = [f"-device pxb-pcie,id=pxb{node},bus_nr={bus},bus=pcie.0,numa_node={node}"]
    for pair in range(pairs):
        tag = f"{node}{pair}"
        chassis = 1 + node * 16 + pair
        rail = node * pairs + pair
        options += [
            f"-device pcie-root-port,id=rp{tag},bus=pxb{node},chassis={chassis},slot={chassis},addr={pair // 2}.{pair % 2}"
            + (",multifunction=on" if pair % 2 == 0 else ""),
            f"-device x3130-upstream,id=up{tag},bus=rp{tag}",
            f"-device xio3130-downstream,id=da{tag},bus=up{tag},chassis={100 + chassis * 2},slot=0",
            f"-device xio3130-downstream,id=db{tag},bus=up{tag},chassis={101 + chassis * 2},slot=1",
            f"-device virtio-blk-pci,drive=nul,share-rw=on,bus=da{tag},class=0x0302,disable-legacy=on",
            f"-netdev hubport,id=n{tag},hubid=0",
            f"-device e1000e,netdev=n{tag},bus=db{tag},mac=52:54:00:00:{index:02x}:{rail:02x},romfile=",
        ]
    return options


def command_line(folder: Path, index: int, scratch: Path, link: str | None, shape: Shape = HOST) -> list[str]:
    """QEMU's arguments. `link` is "listen:PATH" or "connect:PATH": a wire between the hubs of two guests."""
    half, cpus = shape.node_mib, shape.cpus
    smp = f"{cpus},sockets=2,cores={cpus // shape.threads // 2},threads={shape.threads}"
    text = [
        f"qemu-system-x86_64 -accel tcg,thread=multi,tb-size=256 -cpu {shape.cpu} -nodefaults -no-user-config -display none -no-reboot",
        f"-serial file:{scratch}/console -M q35,hpet=off -m {2 * half} -smp {smp}",
        f"-kernel {folder}/vmlinux -initrd {folder}/root.cpio",
        f"-fsdev local,id=f0,path={scratch}/share,security_model=none,multidevs=remap -device virtio-9p-pci,fsdev=f0,mount_tag=host",
        f"-chardev socket,id=ctl,path={scratch}/control,server=on,wait=off -device isa-serial,chardev=ctl,index=1",
        f"-qmp unix:{scratch}/qmp,server=on,wait=off -blockdev null-co,node-name=nul,size=1048576,read-zeroes=on",
        f"-object memory-backend-ram,id=m0,size={half}M -numa node,nodeid=0,memdev=m0,cpus=0-{cpus // 2 - 1}",
        f"-object memory-backend-ram,id=m1,size={half}M -numa node,nodeid=1,memdev=m1,cpus={cpus // 2}-{cpus - 1}",
        "-numa dist,src=0,dst=1,val=21 -numa dist,src=1,dst=0,val=21",
        *_node_devices(0, index, shape.pairs),
        *_node_devices(1, index, shape.pairs),
    ]
    if shape.disk:
        text.append(f"-blockdev driver=file,node-name=disk,read-only=on,filename={shape.disk}")
        text.append(f"-device virtio-blk-pci,bus=pcie.0,drive=disk,serial={disk.SERIAL}")
    role, _, path = (link or "listen:" + str(scratch / "wire")).partition(":")
    server = "on" if role == "listen" else "off"
    text.append(f"-netdev stream,id=wire,server={server},addr.type=unix,addr.path={path} -netdev hubport,id=hw,hubid=0,netdev=wire")
    arguments = " ".join(text).split()
    return [*arguments, "-append", f"{APPEND} epbox.node={index}"]


class GuestDied(GuestError):
    """The emulator ended before the job did: no verdict on the job, so it may be tried once more."""


class Machine:
    """A running QEMU process with its control sockets; always used through `machine()`."""

    def __init__(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        self.process = process
        self.scratch = scratch
        self._qmp: socket.socket | None = None
        self._control: socket.socket | None = None

    def console(self, characters: int = 4000) -> str:
        """The end of the guest's console and of QEMU's own messages."""
        ended = [f"QEMU ended with {self.process.returncode}"] if self.process.poll() is not None else []
        texts = ended + [
            path.read_text(errors="replace")[-characters:] for name in ("qemu", "console") if (path := self.scratch / name).exists()
        ]
        return "\n".join(texts)

    def _failure(self, what: str) -> GuestError:
        """GuestDied where the emulator has ended, else GuestError, with the console's end."""
        return (GuestError if self.process.poll() is None else GuestDied)(f"{what}: {self.console()}")

    def _connect(self, name: str, limit: float = 60) -> socket.socket:
        end = time.monotonic() + limit
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(self.scratch / name))
                return link
            except OSError:
                link.close()
                if time.monotonic() > end or self.process.poll() is not None:
                    raise self._failure(f"QEMU did not open {name}") from None
                time.sleep(0.05)

    def qmp(self, command: str, limit: float = BOOT_S, **arguments: object) -> dict[str, object]:
        """One QMP command and its answer, events skipped."""
        if self._qmp is None:
            self._qmp = self._connect("qmp")
            self._stream = self._qmp.makefile("rwb")
            self._stream.readline()
            self.qmp("qmp_capabilities")
        self._qmp.settimeout(limit)
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise GuestDied(f"QEMU hung up during {command}: {self.console()}")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']}")
            if "return" in answer:
                result: dict[str, object] = answer["return"]
                return result

    def attach(self) -> socket.socket:
        """The control line, connected now if it was not: QEMU drops what a guest writes before."""
        if self._control is None:
            self._control = self._connect("control")
        return self._control

    def wait_ready(self, limit: float) -> None:
        """Block until init has written its ready byte."""
        control = self.attach()
        control.settimeout(limit)
        try:
            byte = control.recv(1)
        except (TimeoutError, ConnectionError):
            byte = b""
        if byte != b"R":
            raise self._failure(f"no ready byte of the guest within {limit:.0f} s")

    def go(self) -> None:
        self.attach().sendall(b"g")

    def wait(self, limit: float) -> Outcome:
        """The job's outcome; the guest powers off by itself."""
        share = self.scratch / "share"
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            partial = (share / "output").read_text(errors="replace")[-1500:] if (share / "output").exists() else ""
            raise GuestError(f"the job did not end within {limit:.0f} s; output: {partial}; console: {self.console()}") from None
        if not (share / "code").exists():
            raise GuestDied(f"the guest ended without a result: {self.console()}")
        return Outcome(int((share / "code").read_text()), (share / "output").read_text(errors="replace"), share)


def _die_with_parent() -> None:
    """No guest outlives the test run, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def machine(index: int = 0, *, state: Path | None = None, link: str | None = None, shape: Shape = HOST) -> Iterator[Machine]:
    """Start QEMU, from a saved state when given; ends it whatever happens."""
    folder = assets.build()
    # Sockets need a short path; the share lies on the state folder's file system, so that large trees can be hard-linked into it.
    scratch = Path(tempfile.mkdtemp(prefix="epbox-guest-"))
    share = Path(tempfile.mkdtemp(prefix="share-", dir=assets.state_folder()))
    (scratch / "share").symlink_to(share)
    arguments = command_line(folder, index, scratch, link, shape)
    if state:
        arguments += ["-incoming", f"exec:cat {state}"]
    with open(scratch / "qemu", "wb") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent)
    try:
        yield Machine(process, scratch)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(share, ignore_errors=True)


def saved_state(index: int) -> Path:
    """A state file of a guest that waits for its go byte; valid for one QEMU, command line and set of assets."""
    folder = assets.build()
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    shape = command_line(folder, index, Path("/scratch"), "listen:/wire")
    key = hashlib.sha256(json.dumps([version, shape]).encode()).hexdigest()[:12]
    path = assets.state_folder() / f"state-{index}-{key}"
    if path.exists():
        return path
    twice(lambda: _boot_and_save(index, path), GuestError)
    return path


def twice(attempt: Callable[[], T], failure: type[GuestError] = GuestDied) -> T:
    """The attempt's result, tried once more when an emulator died in it: they do now and then. A job that kills its guest does so twice."""
    try:
        return attempt()
    except failure as reason:
        print(f"once more, for the first try ended so: {reason}", file=sys.stderr)
        return attempt()


def _boot_and_save(index: int, path: Path) -> None:
    with machine(index) as guest:
        guest.wait_ready(BOOT_S)
        guest.qmp("stop")
        partial = path.with_suffix(".partial")
        guest.qmp("migrate", uri=f"exec:cat > {partial}")
        end = time.monotonic() + BOOT_S
        while (status := guest.qmp("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > end:
                raise GuestError(f"saving the guest's state: {status}")
            time.sleep(0.1)
        os.replace(partial, path)


def start(guest: Machine, job: str, files: dict[str, Path] | None = None) -> None:
    """Put a job and files into the share and let a restored guest run it."""
    share = guest.scratch / "share"
    for name, source in (files or {}).items():
        if source.is_dir() and source.is_relative_to(assets.state_folder()):
            subprocess.run(["cp", "-al", source, share / name], check=True)
        elif source.is_dir():
            shutil.copytree(source, share / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, share / name)
    (share / "job").write_text(job)
    end = time.monotonic() + BOOT_S
    while guest.qmp("query-status")["status"] == "inmigrate":
        if time.monotonic() > end:
            raise GuestError(f"the saved state was not loaded within {BOOT_S:.0f} s")
        time.sleep(0.05)
    guest.qmp("cont")
    guest.go()
