"""To a registry with skopeo, which uploads an OCI archive as it is; an engine would push layers of its own, with another digest."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say

from . import hostpackages
from .oci import Layout

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?/")
#: What skopeo says, and what helps.
_HINTS = {
    "unauthorized|authentication required|denied|no basic auth": "log in (docker login or skopeo login) as one who may push there",
    "HTTP response to HTTPS client": "it speaks plain HTTP: say insecure = true for it in registries.conf(5)",
    "certificate|x509": "its certificate is not trusted here: SSL_CERT_FILE names a bundle",
    "unknown flag": "a newer skopeo is needed (1.9 of Debian 12 will do): this one cannot leave layers as they are",
    "no such host|connection refused|i/o timeout|no route|proxyconnect": "check the name after --tag, and proxies",
}


def ready(name: str | None) -> None:
    """Before a build that shall be pushed: the name names a registry, and skopeo is there, installed where we may."""
    if "/" not in (name or ""):
        raise UsageError(f"{name or 'the default name'} names no registry", where="--push", hint="give one: --tag REGISTRY/NAME:TAG")
    if "@" in (name or ""):
        raise UsageError(f"{name} names a digest", where="--push", hint="a tag names what is pushed; its digest is printed")
    if shutil.which("skopeo") is None:
        hostpackages.install(["skopeo"], "pushing an image as it was verified")


def push(layout: Layout, name: str) -> str:
    """Upload the archive unchanged and return name@digest, with the digest of the archive. EngineError when the registry refuses."""
    ready(name)
    with TemporaryDirectory(prefix="epbox-skopeo-", dir=layout.path.resolve().parent) as folder:
        said = Path(folder, "digest")
        # No policy: that is about whose images are let in, and this one is our own.
        command = ["skopeo", "--insecure-policy", "--tmpdir", folder, "copy", "--preserve-digests", "--retry-times", "2"]
        command += ["--dest-tls-verify=false"] if _LOOPBACK.match(name) else []
        command += ["--digestfile", str(said), f"oci-archive:{layout.path}", f"docker://{name}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise _error(name, done.stderr)
        digest = said.read_text().strip()
    if digest != layout.digest:
        raise EngineError(f"the registry got {digest}, the image is {layout.digest}", where=name, hint="do not use what was pushed")
    reference = f"{_repository(name)}@{digest}"
    say(f"pushed {reference}")
    return reference


def _repository(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(":")[0]


def _error(name: str, text: str) -> EngineError:
    """skopeo's last message with what helps against it."""
    messages = re.findall(r'msg="((?:[^"\\]|\\.)*)"', text) or text.strip().splitlines() or ["no message"]
    what = messages[-1].replace('\\"', '"')
    hint = next((hint for pattern, hint in _HINTS.items() if re.search(pattern, what)), "nothing was tagged there")
    return EngineError(f"push failed: {what[-400:]}", where=name, hint=hint)
