"""A tarball of files and symbolic links, made in memory."""

import io
import tarfile
from collections.abc import Iterable, Mapping


def tarball_of(
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    top: str = "host/",
    extra: Iterable[tarfile.TarInfo] = (),
    form: int = tarfile.GNU_FORMAT,
) -> bytes:
    """An uncompressed tar with everything below `top`; the members `extra` (without content) stand as they are at the end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(top + path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for path, target in links.items():
            member = tarfile.TarInfo(top + path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()
