"""One archive for a bug report: logs, plan, doctor, topology, versions and findings; secrets stay out."""

import io
import json
import os
import platform
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from entrypoints.diagnosis.facts import FILES
from entrypoints.diagnosis.report import to_json
from entrypoints.errors import UsageError
from entrypoints.logs.reader import ends, log_files
from entrypoints.output import write_atomically
from entrypoints.results.model import Finding

#: Of a long log its start, where causes are, and its end are kept.
HEAD, TAIL = 8 << 20, 4 << 20
#: Only these variables go into the bundle, and of them none that looks like a secret.
_ALLOWED = re.compile(
    r"^(?:NVSHMEM|NCCL|EP|DEEP_EP|CUDA|UCX|FI|OMPI_COMM|SLURM_(?:JOB_ID|NNODES|NODEID|PROCID|LOCALID|NTASKS\w*)|TORCH|GLOO|OMP|MASTER)_\w+$"
    r"|^(?:RANK|WORLD_SIZE|LD_LIBRARY_PATH|LD_PRELOAD|PATH|PYTHONPATH|NVIDIA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES|LANG|TZ)$"
)
_SECRET_NAME = (
    # Not "tokens": DeepEP's logs are full of num_tokens.
    r"[\w.-]*(?:TOKEN(?!S|_?ID|IZ)|SECRET|PASSW(?:OR)?D|PASSPHRASE|CREDENTIAL|(?:API|ACCESS|PRIVATE|SESSION)_?KEY|AUTH(?!OR)|COOKIE)[\w.-]*"
)
_REDACTIONS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))", "[redacted private key]"),
        (rf"(\b{_SECRET_NAME}[\"']?\s*[=:]\s*[\"']?)(?:bearer\s+|basic\s+)?[^\s\"',;&]+", r"\1[redacted]"),
        (r"(--?[\w-]*(?:token|secret|password|passwd|api-?key)[= ]\s*)\S+", r"\1[redacted]"),
        (r"(\bauthorization:\s*\w+\s+)\S+", r"\1[redacted]"),
        (r"(\bbearer\s+)[\w.~+/=-]{8,}", r"\1[redacted]"),
        (r"(\w+://)[^\s/@:]+:[^\s/@]+@", r"\1[redacted]@"),
        (r"\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|nvapi-|sk-|xox[abp]-|AKIA|ASIA)[A-Za-z0-9_-]{10,}", "[redacted]"),
        (r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*", "[redacted]"),
        (r"([?&](?:sig|signature|x-amz-signature|x-amz-credential|token)=)[^&\s]+", r"\1[redacted]"),
    )
)


def redact(text: str) -> str:
    """The text with passwords, tokens, keys and credentials in addresses taken out."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def safe_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that matter to a run and are no secrets."""
    secret = re.compile(_SECRET_NAME, re.IGNORECASE)
    return {name: redact(value) for name, value in sorted(environ.items()) if _ALLOWED.match(name) and not secret.fullmatch(name)}


def write_bundle(out: Path, logs: Iterable[Path], findings: Sequence[Finding], folder: Path | None) -> list[str]:
    """Write the archive (gzip tar) under its final name only when it is whole. Returns the names of its members.

    `folder` holds the run's result.json, plan.json and the like.
    """
    members: dict[str, bytes] = {"diagnosis.json": _json(to_json(findings))}
    for number, name in enumerate(log_files(path for path in logs if str(path) != "-")):
        members[f"logs/{number:03}-{Path(name).name.removesuffix('.gz')}"] = redact(ends(name, HEAD, TAIL)).encode()
    for name in FILES:
        path = folder / name if folder else None
        if path is not None and path.is_file():
            members[name] = redact(path.read_text(encoding="utf-8", errors="replace")).encode()
    members.setdefault("topology.json", _json(_live_topology()))
    members["environment.json"] = _json(safe_environment(os.environ))
    members["host.json"] = _json(_host())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(f"epbox-bundle/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    try:
        write_atomically(out, buffer.getvalue())
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(out)) from error
    return sorted(members)


def _live_topology() -> object:
    try:
        from entrypoints.topology import load
        from entrypoints.topology.document import to_document

        return to_document(load(None))
    except Exception as error:  # a bundle is made where things are broken
        return {"unavailable": f"{type(error).__name__}: {error}"}


def _host() -> dict[str, str | None]:
    facts: dict[str, str | None] = {"system": platform.platform(), "python": platform.python_version()}
    for name, path in (
        ("nvidia_driver", "/proc/driver/nvidia/version"),
        ("nvidia_params", "/proc/driver/nvidia/params"),
        ("os_release", "/etc/os-release"),
        ("lock", "/opt/epbox/lock.json"),
    ):
        try:
            facts[name] = redact(Path(path).read_text(errors="replace")[:65536])
        except OSError:
            facts[name] = None
    return facts


def _json(value: object) -> bytes:
    return redact(json.dumps(value, indent=2, default=str)).encode() + b"\n"
