"""What a build needs of its host to reach the network: proxies, CA bundle, package mirrors. Given as secrets, never as layers or labels."""

import configparser
import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from .hostpackages import os_release

DEBIAN = "http://deb.debian.org/debian"
DEBIAN_SECURITY = "http://deb.debian.org/debian-security"
SNAPSHOT = "http://snapshot.debian.org/archive"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_CA_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
_APT_KEYS = re.compile(r"^Acquire::(https?::(Proxy|Timeout|Verify-)|Check-|Retries|ForceIPv)", re.IGNORECASE)
_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host", "timeout")


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
    """EPBOX_DEBIAN_MIRROR (and _SECURITY) first; else what a Debian host's own sources name; else deb.debian.org."""
    asked = environ.get("EPBOX_DEBIAN_MIRROR")
    if asked:
        return Mirrors(asked.rstrip("/"), environ.get("EPBOX_DEBIAN_SECURITY_MIRROR", DEBIAN_SECURITY).rstrip("/"))
    release = os_release(root / "etc/os-release")
    if release.get("ID") != "debian":
        return Mirrors()
    suites = list(_apt_suites(root / "etc/apt"))
    codename = release.get("VERSION_CODENAME", "")
    archive = next((uri for uri, names in suites if codename in names), DEBIAN)
    security = next((uri for uri, names in suites if f"{codename}-security" in names), DEBIAN_SECURITY)
    return Mirrors(archive.rstrip("/"), security.rstrip("/"))


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
        with urllib.request.urlopen(f"{SNAPSHOT}/debian/", timeout=10) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _apt_suites(folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(URI, suites) of every binary source, in both formats of sources.list(5)."""
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]:
        for line in _lines(path):
            words = re.sub(r"\[[^]]*\]", "", line).split()
            if len(words) >= 3 and words[0] == "deb":
                yield words[1], (words[2],)
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", "\n".join(_lines(path))):
            fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                for uri in fields.get("URIs", "").split():
                    yield uri, tuple(fields.get("Suites", "").split())


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    except OSError:
        return []


def ca_bundle(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The host's CA bundle: what its environment names, else the system's."""
    named = [environ[name] for name in _CA_VARIABLES if environ.get(name)]
    return next((Path(path) for path in [*named, *_CA_FILES] if Path(path).is_file()), None)


def apt_options() -> list[str]:
    """The host's own apt settings about proxies and the network, as apt.conf(5) lines."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    except OSError:
        return []
    return [line for line in dump.splitlines() if _APT_KEYS.match(line) and not line.endswith(' "";')]


def pip_options(environ: Mapping[str, str] = os.environ, files: Sequence[Path] | None = None) -> dict[str, str]:
    """pip's index settings from its files and environment. Local folders are left out: a build cannot see them."""
    home = Path(environ.get("HOME", "/nonexistent"))
    known = [
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        Path(environ.get("PIP_CONFIG_FILE", "/dev/null")),
    ]
    parser = configparser.RawConfigParser(strict=False)
    for path in known if files is None else files:
        try:
            parser.read_string(path.read_text())
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
    options = {}
    for key in _PIP_KEYS:
        value = environ.get("PIP_" + key.upper().replace("-", "_")) or parser.get("global", key, fallback=None) or ""
        reachable = [word for word in value.split() if not word.startswith(("/", ".", "file:", "~"))]
        if reachable:
            options[key] = " ".join(reachable)
    return options


def secrets(suite: str | None, environ: Mapping[str, str] = os.environ, more: Sequence[str] = ()) -> dict[str, bytes]:
    """Secret id to content, for the mounts that templates/dockerfile/macros.j2 declares; empty ones are left out. `more` apt sources."""
    found: dict[str, bytes] = {}
    proxies = {name: value for name, value in environ.items() if name.lower() in _PROXIES and value}
    if proxies:
        found["host.env"] = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(proxies.items())).encode()
    bundle = ca_bundle(environ)
    apt = apt_options()
    if bundle:
        found["ca.pem"] = bundle.read_bytes()
        # Secrets are root's alone; apt's download user could not read the bundle.
        apt += ['Acquire::https::CAInfo "/run/secrets/ca.pem";', 'APT::Sandbox::User "root";']
    mirrors = debian_mirrors(environ)
    if suite and (more or mirrors != Mirrors()):
        found["apt.list"] = "".join(f"{line}\n" for line in (*mirrors.sources(suite), *more)).encode()
        apt += ['Dir::Etc::SourceList "/run/secrets/apt.list";', 'Dir::Etc::SourceParts "/dev/null";']
    if apt:
        found["apt.conf"] = "".join(f"{line}\n" for line in apt).encode()
    options = pip_options(environ)
    if options:
        found["pip.conf"] = "".join(["[global]\n", *(f"{key} = {value}\n" for key, value in options.items())]).encode()
    return found


@contextmanager
def secret_arguments(suite: str | None, more: Sequence[str] = ()) -> Iterator[list[str]]:
    """`--secret` arguments for docker build; the files they name exist only inside the `with`, readable by this user alone."""
    with TemporaryDirectory(prefix="epbox-secrets-") as folder:
        arguments = []
        for name, content in secrets(suite, more=more).items():
            path = Path(folder, name)
            path.write_bytes(content)
            path.chmod(0o600)
            arguments += ["--secret", f"id={name},src={path}"]
        yield arguments
