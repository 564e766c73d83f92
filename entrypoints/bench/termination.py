"""The last word of a container: Kubernetes shows what stands in this file as the pod's termination message."""

from contextlib import suppress
from pathlib import Path

#: Kubernetes' default `terminationMessagePath`; it exists only where a kubelet mounted it.
LOG = Path("/dev/termination-log")
#: The kubelet keeps no more bytes than this of one container.
LIMIT = 4096


def leave(message: str) -> None:
    """Write the verdict where a kubelet looks for it; nothing is made, and nothing fails, where there is no such file."""
    # Cut by bytes and then back to whole characters: the API takes only valid UTF-8.
    text = message.encode()[:LIMIT].decode(errors="ignore")
    with suppress(OSError):
        if LOG.is_file():
            LOG.write_text(text, encoding="utf-8")
