"""What cannot be read from a file: system calls and NVML of the running host, or nothing at all for a copied tree."""

import ctypes
import os
import platform
import socket
import threading
from dataclasses import dataclass, field
from typing import Protocol

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.nvml import GpuReport, read_gpus

#: set_mempolicy(2) by machine (arch/*/entry/syscalls); unlisted machines are not probed.
SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}


class Probes(Protocol):
    """Questions to the running kernel, resolver and driver. Each may raise NotReadable."""

    def mempolicy_errno(self) -> int:
        """0 when set_mempolicy(MPOL_DEFAULT) is allowed, else its errno."""
        ...

    def open_error(self, path: str) -> str | None:
        """None when the device opens for reading and writing, else why not."""
        ...

    def addresses(self, name: str) -> tuple[str, ...]:
        """Addresses of a host name; empty when it does not resolve."""
        ...

    def port_in_use(self, address: str, port: int) -> bool | None:
        """True when a local address has the TCP port taken, None when the address is not ours."""
        ...

    def space(self, path: str) -> tuple[int, int]:
        """Total and free bytes of the file system that holds a path."""
        ...

    def writable(self, path: str) -> bool:
        """True when files may be created in an existing folder."""
        ...

    def gpus(self) -> GpuReport:
        """What NVML says of every GPU."""
        ...


@dataclass
class LiveProbes:
    """The running host. NVML is asked once; a driver that does not answer is not asked again."""

    _report: list[GpuReport | NotReadable] = field(default_factory=list)
    _asked: threading.Event = field(default_factory=threading.Event)

    def mempolicy_errno(self) -> int:
        number = SET_MEMPOLICY.get(platform.machine())
        if number is None:
            raise NotReadable(f"set_mempolicy is not probed on {platform.machine()}")
        libc = ctypes.CDLL(None, use_errno=True)
        # MPOL_DEFAULT with no nodes: the policy every thread is born with, and only of this short-lived thread.
        return 0 if libc.syscall(number, 0, None, 0) == 0 else ctypes.get_errno()

    def open_error(self, path: str) -> str | None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            return os.strerror(error.errno or 0).lower()
        return None

    def addresses(self, name: str) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError):
            return ()

    def port_in_use(self, address: str, port: int) -> bool | None:
        import errno

        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                return True if error.errno == errno.EADDRINUSE else None
        return False

    def space(self, path: str) -> tuple[int, int]:
        try:
            found = os.statvfs(path)
        except OSError as error:
            raise NotReadable(f"{path}: {os.strerror(error.errno or 0).lower()}") from None
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def writable(self, path: str) -> bool:
        return os.access(path, os.W_OK | os.X_OK)

    def gpus(self) -> GpuReport:
        if not self._report:
            if self._asked.is_set():
                raise NotReadable("NVML gave no answer in time")
            self._asked.set()
            try:
                self._report.append(read_gpus())
            except NotReadable as error:
                self._report.append(error)
        report = self._report[0]
        if isinstance(report, NotReadable):
            raise report
        return report


class NoProbes:
    """A copied tree or a snapshot: nothing can be asked."""

    def _refuse(self) -> NotReadable:
        return NotReadable("only the running host can tell")

    def mempolicy_errno(self) -> int:
        raise self._refuse()

    def open_error(self, path: str) -> str | None:
        raise self._refuse()

    def addresses(self, name: str) -> tuple[str, ...]:
        raise self._refuse()

    def port_in_use(self, address: str, port: int) -> bool | None:
        raise self._refuse()

    def space(self, path: str) -> tuple[int, int]:
        raise self._refuse()

    def writable(self, path: str) -> bool:
        raise self._refuse()

    def gpus(self) -> GpuReport:
        raise self._refuse()
