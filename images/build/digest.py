"""Digests as OCI writes them: sha256: and 64 hexadecimal digits."""

import hashlib
from pathlib import Path


def of(content: bytes | str) -> str:
    """Digest of bytes, or of a text in UTF-8."""
    return "sha256:" + hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def of_file(path: Path) -> str:
    """Digest of a file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()
