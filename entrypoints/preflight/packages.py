"""What is installed against what the image was locked to: its own SBOM, which `verify --image` proved."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import Answer, Host, failed, passed, warned

SBOM = "opt/epbox/sbom.spdx.json"
#: Both grow with the image: a thousand packages are about 1 MiB of either.
_LIMIT = 8 << 20
#: Wheels whose version decides whether DeepEP runs; any other difference is a WARN.
_DECIDE = re.compile(r"torch|nvidia-(nccl|nvshmem)-cu\d+")

_Versions = dict[str, set[str]]


def locked(host: Host) -> Answer:
    """Debian packages and wheels have the versions that the image was locked to. Packages added later do not count."""
    want = _listed(host)
    have = {"deb": _debian(host), "pypi": _wheels(host)}
    differ = [
        (name, f"{name} {' '.join(sorted(have[kind].get(name, ())) or ['missing'])}, locked {' '.join(sorted(versions))}")
        for kind, packages in want.items()
        for name, versions in sorted(packages.items())
        if have[kind].get(name) != versions
    ]
    if not differ:
        return passed(f"{len(want['deb'])} Debian packages and {len(want['pypi'])} wheels as the image was locked")
    shown = "; ".join(words for _, words in differ[:4]) + (f"; {len(differ) - 4} more" if differ[4:] else "")
    answer = failed if any(_DECIDE.fullmatch(name) for name, _ in differ) else warned
    return answer(shown, "run the image as it was built, or put these versions into a recipe: results are not comparable")


def compiled(host: Host, name: str) -> str | None:
    """Version of a part that the image compiled from source, by its SBOM; None when there is no such part, or no SBOM."""
    try:
        packages = json.loads(host.files.data(SBOM, _LIMIT))["packages"]
        return next((str(each["versionInfo"]) for each in packages if each["name"] == name and "externalRefs" not in each), None)
    except (NotReadable, ValueError, KeyError, TypeError, RecursionError):
        return None


def _listed(host: Host) -> dict[str, _Versions]:
    """Kind (deb, pypi) to name to versions, from the SBOM's package URLs. Raises NotReadable."""
    found: dict[str, _Versions] = {"deb": {}, "pypi": {}}
    try:
        packages = json.loads(host.files.data(SBOM, _LIMIT))["packages"]
        for purl in (reference["referenceLocator"] for package in packages for reference in package.get("externalRefs", ())):
            match = re.fullmatch(r"pkg:(deb|pypi)/(?:[^/@]+/)?([^/@]+)@([^?]+)(?:\?.*)?", purl)
            if match:
                found[match[1]].setdefault(unquote(match[2]), set()).add(unquote(match[3]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotReadable(f"/{SBOM}: {error!r}") from None
    return found


def _debian(host: Host) -> _Versions:
    found: _Versions = {}
    for stanza in host.files.data("var/lib/dpkg/status", _LIMIT).decode(errors="replace").split("\n\n"):
        fields: Mapping[str, Any] = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and "Version" in fields:
            found.setdefault(fields.get("Package", ""), set()).add(fields["Version"])
    return found


def _wheels(host: Host) -> _Versions:
    found: _Versions = {}
    for site in (*host.site, "opt/cuda"):
        for name in host.files.maybe_names(site):
            match = re.fullmatch(r"([^-]+)-([^-]+)\.dist-info", name)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(match[2])
    return found
