"""Image references, and how each runtime spells them. The registry is the user's: the reference decides."""

import re
from dataclasses import dataclass

from entrypoints.errors import UsageError

#: distribution/reference, reference.go: domain, path components in lower case, tag, digest.
_REFERENCE = re.compile(
    r"(?:(?P<registry>localhost(?::[0-9]+)?|[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*:[0-9]+|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)/)?"
    r"(?P<repository>[a-z0-9]+(?:(?:\.|_{1,2}|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """[REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]."""

    registry: str | None
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """[REGISTRY/]REPOSITORY."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def __str__(self) -> str:
        """As docker, podman and apptainer take it. A tag beside a digest is dropped: the digest decides, and apptainer takes only one."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"

    def enroot(self) -> str:
        """As enroot and pyxis take it: `#` after the registry, and the digest where a tag stands.

        enroot 3 knows no `@sha256:` but hands the tag to the registry as it is; enroot 4 takes both (src/docker.sh, _parse_uri).
        """
        name = f"{self.registry}#{self.repository}" if self.registry else self.repository
        return f"{name}:{self.digest or self.tag or 'latest'}"

    @property
    def short(self) -> str:
        """A file name for it: repository and the first 12 digits of the digest."""
        return f"{self.repository.rpartition('/')[2]}-{(self.digest or self.tag or 'latest').removeprefix('sha256:')[:12]}"


def is_tag(text: str) -> bool:
    """True for a name that an image can be given: a reference without a digest."""
    match = _REFERENCE.fullmatch(text)
    return match is not None and not match["digest"]


def parse(text: str, allow_tag: bool = False) -> Reference:
    """Read a reference. Raises UsageError when it is not one, and when it has no digest unless a tag is allowed."""
    if not text:
        raise UsageError("no image", where="--image", hint="give REPOSITORY@sha256:DIGEST, as `build --push` prints it")
    match = _REFERENCE.fullmatch(text)
    if match is None:
        hint = "give [REGISTRY/]REPOSITORY@sha256:DIGEST, lower case, 64 hex digits"
        raise UsageError(f"{text!r} is no image reference", where="--image", hint=hint)
    if not match["digest"] and not allow_tag:
        hint = "give REPOSITORY@sha256:DIGEST, or --allow-tag"
        raise UsageError(f"{text!r} has no digest, so two nodes could run different images", where="--image", hint=hint)
    return Reference(match["registry"], match["repository"], match["tag"], match["digest"])
