"""What a build needs of its host: proxies, CA bundle and mirrors (one secret, never a layer or a label), and Debian packages."""

import configparser
import os
import re
import shlex
import shutil
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError
from entrypoints.output import say
from images.command import probe, run

DEBIAN = "http://deb.debian.org/debian"
DEBIAN_SECURITY = "http://deb.debian.org/debian-security"
SNAPSHOT = "http://snapshot.debian.org/archive"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_CA_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_APT_KEYS = re.compile(r"^Acquire::(https?::(Proxy|Timeout|Verify-)|Check-|Retries|ForceIPv)", re.IGNORECASE)
_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host", "timeout")
_FOLDER = "/run/host"  # of a build step, on a tmpfs: what host.sh writes there goes with the step
_END = "END OF FILE"


@dataclass(frozen=True)
class Mirrors:
    """Where the host fetches Debian packages from."""

    archive: str = DEBIAN
    security: str = DEBIAN_SECURITY

    def sources(self, suite: str) -> tuple[str, ...]:
        """One-line apt sources of `suite` with its updates and security suites."""
        return (
            f"deb {self.archive} {suite} main",
            f"deb {self.archive} {suite}-updates main",
            f"deb {self.security} {suite}-security main",
        )


def debian_mirrors(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Mirrors:
    """Return EPBOX_DEBIAN_MIRROR (and EPBOX_DEBIAN_SECURITY_MIRROR); else what a Debian host's own sources name; else deb.debian.org."""
    mirror = environ.get("EPBOX_DEBIAN_MIRROR")
    if mirror:
        return Mirrors(mirror.rstrip("/"), environ.get("EPBOX_DEBIAN_SECURITY_MIRROR", DEBIAN_SECURITY).rstrip("/"))
    release = os_release(root / "etc/os-release")
    if release.get("ID") != "debian":
        return Mirrors()
    sources = _apt_sources(root / "etc/apt")
    codename = release.get("VERSION_CODENAME", "")
    return Mirrors(sources.get(codename, DEBIAN).rstrip("/"), sources.get(f"{codename}-security", DEBIAN_SECURITY).rstrip("/"))


def snapshot_sources(archive: Mapping[str, str]) -> tuple[str, ...]:
    """apt sources of Debian's snapshot archive as it was at a lock's archive times (suite to Date of its Release file)."""
    lines = []
    for suite, date in archive.items():
        moment = parsedate_to_datetime(date).strftime("%Y%m%dT%H%M%SZ")
        name = "debian-security" if suite.endswith("-security") else "debian"
        lines.append(f"deb [check-valid-until=no] {SNAPSHOT}/{name}/{moment} {suite} main")
    return tuple(lines)


def snapshot_answers() -> bool:
    """True where Debian's snapshot archive is reachable; asked only when a locked version left the mirror."""
    try:
        with urllib.request.urlopen(f"{SNAPSHOT}/debian/", timeout=10) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError):
        return False


def _apt_sources(folder: Path) -> dict[str, str]:
    """Suite to the first URI that a host's binary sources name for it, in both formats of sources.list(5)."""
    sources: dict[str, str] = {}
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]:
        for line in _lines(path):
            words = re.sub(r"\[[^]]*\]", "", line).split()
            if len(words) >= 3 and words[0] == "deb":
                sources.setdefault(words[2], words[1])
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", "\n".join(_lines(path))):
            fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", stanza, re.MULTILINE))
            uris = fields.get("URIs", "").split()
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no" and uris:
                for suite in fields.get("Suites", "").split():
                    sources.setdefault(suite, uris[0])
    return sources


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    except OSError:
        return []


def ca_bundle(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The host's CA bundle: what its environment names, else the system's; None without one."""
    named = [environ[name] for name in _CA_VARIABLES if environ.get(name)]
    return next((Path(path) for path in [*named, *_CA_FILES] if Path(path).is_file()), None)


def apt_options(bundle: Path | None) -> list[str]:
    """The host's own apt settings about proxies and the network, and the CA bundle to trust, as apt.conf(5) lines."""
    dump = probe(["apt-config", "dump"]) or ""
    lines = [line for line in dump.splitlines() if _APT_KEYS.match(line) and not line.endswith(' "";')]
    return [*lines, f'Acquire::https::CAInfo "{bundle}";'] if bundle else lines


def pip_options(environ: Mapping[str, str] = os.environ, files: Sequence[Path] | None = None) -> dict[str, str]:
    """pip's index settings from its files and environment. Local folders are left out: a build cannot see them."""
    home = Path(environ.get("HOME", "/nonexistent"))
    if files is None:
        standard = (Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf")
        files = (*standard, Path(environ.get("PIP_CONFIG_FILE", "/dev/null")))
    parser = configparser.RawConfigParser(strict=False)
    for path in files:
        with suppress(UnicodeDecodeError, configparser.Error):
            parser.read(path)
    options = {}
    for key in _PIP_KEYS:
        value = environ.get("PIP_" + key.upper().replace("-", "_")) or parser.get("global", key, fallback=None) or ""
        reachable = [word for word in value.split() if not word.startswith(("/", ".", "file:", "~"))]
        if reachable:
            options[key] = " ".join(reachable)
    return options


def settings(suite: str | None, environ: Mapping[str, str] = os.environ, more: Sequence[str] = ()) -> str:
    """Return host.sh, which a build step sources to reach the network as this host does: variables, and the files that they name.

    `more` are further apt sources for `suite` (None: the image's own sources stay). Empty where this host has no settings.
    """
    variables = {name: value for name, value in environ.items() if name.lower() in _PROXIES and value}
    files: dict[str, str] = {}
    bundle = ca_bundle(environ)
    apt = apt_options(Path(_FOLDER, "ca.pem") if bundle else None)
    if bundle:
        files["ca.pem"] = bundle.read_text(encoding="utf-8", errors="surrogateescape")
        variables |= dict.fromkeys((*_CA_VARIABLES, "GIT_SSL_CAINFO"), f"{_FOLDER}/ca.pem")
        # The folder is root's alone; apt's download user could not read the bundle.
        apt.append('APT::Sandbox::User "root";')
    mirrors = debian_mirrors(environ)
    if suite and (more or mirrors != Mirrors()):
        files["apt.list"] = "\n".join((*mirrors.sources(suite), *more))
        apt += [f'Dir::Etc::SourceList "{_FOLDER}/apt.list";', 'Dir::Etc::SourceParts "/dev/null";']
    if apt:
        files["apt.conf"] = "\n".join(apt)
        variables["APT_CONFIG"] = f"{_FOLDER}/apt.conf"
    options = pip_options(environ)
    if options:
        files["pip.conf"] = "\n".join(["[global]", *(f"{key} = {value}" for key, value in options.items())])
        variables["PIP_CONFIG_FILE"] = f"{_FOLDER}/pip.conf"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    lines += [f"mkdir -m 700 {_FOLDER}"] if files else []
    lines += [f"cat >{_FOLDER}/{name} <<'{_END}'\n{text.rstrip()}\n{_END}" for name, text in files.items()]
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def secret_arguments(suite: str | None, more: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield the `--secret` arguments for docker build; the file that they name goes with the `with`, and only this user may read it."""
    text = settings(suite, more=more)
    with TemporaryDirectory(prefix="epbox-secrets-") as folder:
        path = Path(folder, "host.sh")
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        yield ["--secret", f"id=host,src={path}"] if text else []


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Read the fields of os-release(5); empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip().strip("\"'") for key, _, value in pairs}


def debian_like(fields: dict[str, str] | None = None) -> bool:
    """True on Debian, Ubuntu and their derivatives."""
    fields = os_release() if fields is None else fields
    return bool({"debian", "ubuntu"} & {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()})


def can_install() -> bool:
    """True where apt-get may install packages: Debian or Ubuntu, and root."""
    return debian_like() and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: Sequence[str], why: str) -> None:
    """apt-get install `packages` with fresh lists; EngineError when that fails or is not possible here. `why` is shown to the user."""
    hint = f"as root on Debian or Ubuntu: apt-get install {' '.join(packages)}"
    if not can_install():
        raise EngineError(f"{why} needs {' '.join(packages)}", hint=hint)
    say(f"{why}: installing {' '.join(packages)}")
    update()
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "install", "-q", "--yes", "--no-install-recommends", *packages], env=environment, where=why, hint=hint)


def update() -> None:
    """Fetch fresh package lists; where that fails, the old ones may do."""
    probe(["apt-get", "update", "-q"])


def available(package: str) -> bool:
    """True when the host's archive offers `package` for installation."""
    policy = probe(["apt-cache", "policy", package]) or ""
    return "Candidate:" in policy and "Candidate: (none)" not in policy
