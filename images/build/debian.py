"""What a Debian mirror offers, asked through apt in a root of its own: nothing of the host's packages or lists takes part."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from entrypoints.errors import EngineError
from images.command import run

from . import hostconfig


@dataclass(frozen=True)
class Package:
    """One Debian package file by its version, architecture (amd64, all, ...) and the sha256 that the archive signs."""

    version: str
    arch: str
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A suite of the host's mirror with fresh package lists in `root`."""

    root: Path
    suite: str

    def dates(self) -> dict[str, str]:
        """Suite to the Date of its Release file: the archive time of all that is resolved here."""
        dates = {}
        for path in sorted((self.root / "lists").glob("*InRelease")):
            fields = dict(re.findall(r"^(Suite|Codename|Date): (.+)$", path.read_text(errors="replace"), re.MULTILINE))
            dates[fields.get("Codename", path.name)] = fields.get("Date", "")
        return dates

    def resolve(self, status: str, packages: Sequence[str]) -> dict[str, Package]:
        """Name to package of all that installing `packages` over this dpkg status would bring; EngineError when apt finds no way."""
        (self.root / "status").write_text(status)
        text = self.apt("apt-get", "--print-uris", "--yes", "--no-install-recommends", "install", *sorted(packages))
        # apt names files here by the weakest hash that the archive has, so the sha256 comes from the package lists.
        wanted = {m[1]: unquote(m[2]) for m in re.finditer(r"^'[^']+' (\S+?)_(\S+)_\S+\.deb \d+ ", text, re.MULTILINE)}
        resolved = self.exact(wanted)
        if not resolved or len(resolved) != len(wanted):
            raise EngineError(f"apt resolves {len(wanted)} packages, the lists name {len(resolved)} of them", where=self.suite)
        return resolved

    def exact(self, versions: Mapping[str, str]) -> dict[str, Package]:
        """Name to package of what the mirror has in just these versions."""
        offered = self.offered(versions)
        return {name: p for name, version in sorted(versions.items()) for p in offered.get(name, ()) if p.version == version}

    def offered(self, names: Iterable[str]) -> dict[str, list[Package]]:
        """Name to every version that the mirror has; names that it does not know are absent."""
        packages: dict[str, list[Package]] = {}
        # apt-cache ends with 100 when a name is unknown.
        for stanza in self.apt("apt-cache", "show", *sorted(names), accept=(0, 100)).split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture|SHA256): (.+)$", stanza, re.MULTILINE))
            if len(fields) == 4:
                package = Package(fields["Version"], fields["Architecture"], fields["SHA256"])
                packages.setdefault(fields["Package"], []).append(package)
        return packages

    def apt(self, program: str, *arguments: str, accept: Sequence[int] = (0,)) -> str:
        """Run a program of apt on these lists and return what it printed. Raises EngineError."""
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        hint = "is a Debian mirror reachable? EPBOX_DEBIAN_MIRROR names one"
        return run([program, "-q", *arguments], env=environment, accept=accept, hint=hint)


@contextmanager
def archive(suite: str, more: Sequence[str] = ()) -> Iterator[Archive]:
    """Yield the mirror (and `more` apt sources) as it is now, in a folder that goes with the `with`. EngineError where nothing answers."""
    if not hostconfig.debian_like():
        raise EngineError("resolving Debian packages needs apt", hint="run ./inv lock on Debian or Ubuntu")
    with TemporaryDirectory(prefix="epbox-apt-") as folder:
        root = Path(folder)
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text("".join(f"{line}\n" for line in (*hostconfig.debian_mirrors().sources(suite), *more)))
        settings = [
            f'Dir::Etc::SourceList "{root}/sources.list";',
            f'Dir::Etc::SourceParts "{root}/parts";',
            f'Dir::Etc::Preferences "{root}/none";',
            f'Dir::Etc::PreferencesParts "{root}/parts";',
            f'Dir::State::Lists "{root}/lists";',
            f'Dir::State::status "{root}/status";',
            f'Dir::State::extended_states "{root}/extended";',
            f'Dir::Cache "{root}/cache";',
            'APT::Architecture "amd64";',
            'APT::Sandbox::User "root";',
            *hostconfig.apt_options(hostconfig.ca_bundle()),
        ]
        (root / "apt.conf").write_text("".join(f"{line}\n" for line in settings))
        root.chmod(0o755)
        lists = Archive(root, suite)
        lists.apt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        yield lists


def installed(status: str) -> dict[str, str]:
    """Name to version of the packages that a dpkg status file calls installed."""
    versions = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            versions[fields["Package"]] = fields["Version"]
    return versions


def drift(locked: Mapping[str, Package], offered: Mapping[str, Sequence[Package]]) -> tuple[str, ...]:
    """Packages that left the mirror, as "NAME LOCKED -> OFFERED". EngineError when a locked version is there with another sha256."""
    gone = []
    for name, package in sorted(locked.items()):
        versions = offered.get(name, ())
        same = [other for other in versions if other.version == package.version]
        for other in same:
            if other.sha256 != package.sha256:
                raise EngineError(
                    f"{name} {other.version} has sha256 {other.sha256} on the mirror, the lock says {package.sha256}",
                    hint="do not build from this mirror, or make the lock again: ./inv lock",
                )
        if not same:
            gone.append(f"{name} {package.version} -> {versions[0].version if versions else 'none'}")
    return tuple(gone)
