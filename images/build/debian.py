"""What a Debian mirror offers, asked through apt in a root of its own: nothing of the host's packages or lists takes part."""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from entrypoints.errors import EngineError

from . import hostconfig, hostpackages


@dataclass(frozen=True)
class Package:
    """One Debian package file: name, version, architecture (amd64, all, ...) and the sha256 that the archive signs."""

    name: str
    version: str
    arch: str
    sha256: str

    def document(self) -> dict[str, str]:
        return {"version": self.version, "arch": self.arch, "sha256": self.sha256}


@dataclass(frozen=True)
class Archive:
    """A suite of the host's mirror with fresh package lists in `root`."""

    root: Path
    suite: str

    def dates(self) -> dict[str, str]:
        """Suite to the Date of its Release file: the archive time of all that is resolved here."""
        found = {}
        for path in sorted((self.root / "lists").glob("*InRelease")):
            fields = dict(re.findall(r"^(Suite|Codename|Date): (.+)$", path.read_text(errors="replace"), re.MULTILINE))
            found[fields.get("Codename", path.name)] = fields.get("Date", "")
        return found

    def resolve(self, status: str, packages: Sequence[str]) -> tuple[Package, ...]:
        """All that installing `packages` over the dpkg status `status` would bring, by name; EngineError when apt finds no way."""
        (self.root / "status").write_text(status)
        text = self._run("apt-get", "--print-uris", "--yes", "--no-install-recommends", "install", *sorted(packages))
        # apt names files here by the weakest hash that the archive has, so the sha256 comes from the package lists.
        wanted = {m[1]: unquote(m[2]) for m in re.finditer(r"^'[^']+' (\S+?)_(\S+)_\S+\.deb \d+ ", text, re.MULTILINE)}
        offered = self.offered(wanted)
        found = [each for name, version in sorted(wanted.items()) for each in offered.get(name, ()) if each.version == version]
        if not found or len(found) != len(wanted):
            raise EngineError(f"apt resolves {len(wanted)} packages, the lists name {len(found)} of them", where=self.suite)
        return tuple(found)

    def offered(self, names: Iterable[str]) -> dict[str, list[Package]]:
        """Name to every version that the mirror has; names that it does not know are absent."""
        found: dict[str, list[Package]] = {}
        text = self._run("apt-cache", "show", *sorted(names), check=False)
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture|SHA256): (.+)$", stanza, re.MULTILINE))
            if len(fields) == 4:
                package = Package(fields["Package"], fields["Version"], fields["Architecture"], fields["SHA256"])
                found.setdefault(package.name, []).append(package)
        return found

    def _run(self, program: str, *arguments: str, check: bool = True) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run([program, "-q", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if check and done.returncode != 0:
            tail = " | ".join(done.stderr.strip().splitlines()[-3:])
            raise EngineError(f"{program} failed: {tail}", hint="is a Debian mirror reachable? EPBOX_DEBIAN_MIRROR names one")
        return done.stdout


@contextmanager
def archive(suite: str, more: Sequence[str] = ()) -> Iterator[Archive]:
    """The mirror (and `more` apt sources) as it is now, in a folder that goes with the `with`. EngineError where nothing answers."""
    if not hostpackages.debian_like():
        raise EngineError("resolving Debian packages needs apt", hint="run ./inv lock on Debian or Ubuntu")
    with TemporaryDirectory(prefix="epbox-apt-") as folder:
        root = Path(folder)
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text("".join(f"{line}\n" for line in (*hostconfig.debian_mirrors().sources(suite), *more)))
        (root / "apt.conf").write_text("".join(f"{line}\n" for line in _settings(root)))
        root.chmod(0o755)
        found = Archive(root, suite)
        found._run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        yield found


def _settings(root: Path) -> list[str]:
    lines = [
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
        *hostconfig.apt_options(),
    ]
    bundle = hostconfig.ca_bundle()
    return [*lines, f'Acquire::https::CAInfo "{bundle}";'] if bundle else lines


def installed(status: str) -> dict[str, str]:
    """Name to version of the packages that a dpkg status file calls installed."""
    found = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            found[fields["Package"]] = fields["Version"]
    return found


def drift(locked: Mapping[str, Mapping[str, Any]], offered: Mapping[str, Sequence[Package]]) -> tuple[str, ...]:
    """What left the mirror, as "NAME LOCKED -> OFFERED". EngineError when a locked version is there with another sha256."""
    gone = []
    for name, want in sorted(locked.items()):
        same = [each for each in offered.get(name, ()) if each.version == want["version"]]
        for each in same:
            if each.sha256 != want["sha256"]:
                raise EngineError(
                    f"{name} {each.version} has sha256 {each.sha256} on the mirror, the lock says {want['sha256']}",
                    hint="do not build from this mirror, or make the lock again: ./inv lock",
                )
        if not same:
            now = [each.version for each in offered.get(name, ())]
            gone.append(f"{name} {want['version']} -> {now[0] if now else 'none'}")
    return tuple(gone)
