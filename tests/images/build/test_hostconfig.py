"""The host's proxies, CA bundle and mirrors become secrets, and only what a build can reach."""

import subprocess
from pathlib import Path

import pytest

from images.build import hostconfig
from images.build.hostconfig import Mirrors


def host(root: Path, codename: str = "bookworm", **files: str) -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(f'ID=debian\nVERSION_CODENAME="{codename}"\n')
    for name, text in files.items():
        (root / "etc/apt/sources.list.d" / name.replace("_", ".")).write_text(text)
    return root


def test_a_deb822_mirror_is_found(tmp_path: Path) -> None:
    text = """# comment
Types: deb deb-src
URIs: https://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: https://mirror.example/security
Suites: bookworm-security
"""
    assert hostconfig.debian_mirrors({}, host(tmp_path, main_sources=text)) == Mirrors(
        "https://mirror.example/debian", "https://mirror.example/security"
    )


def test_a_one_line_mirror_with_options_is_found_and_others_are_not_taken_for_it(tmp_path: Path) -> None:
    text = "deb https://vendor.example/apt stable main\ndeb [arch=amd64 signed-by=/k] http://m.example/debian bookworm main\n"
    mirrors = hostconfig.debian_mirrors({}, host(tmp_path, a_list=text))
    assert mirrors == Mirrors("http://m.example/debian", hostconfig.DEBIAN_SECURITY)


def test_ubuntu_s_mirror_is_no_debian_mirror(tmp_path: Path) -> None:
    root = host(tmp_path, a_list="deb http://archive.example/ubuntu noble main\n")
    (root / "etc/os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    assert hostconfig.debian_mirrors({}, root) == Mirrors()


def test_the_variable_wins(tmp_path: Path) -> None:
    environ = {"EPBOX_DEBIAN_MIRROR": "http://x.example/d/"}
    assert hostconfig.debian_mirrors(environ, host(tmp_path)).archive == "http://x.example/d"


def sourced(script: str, folder: Path, *variables: str) -> list[str]:
    """What a step sees of these variables after it sourced host.sh, whose files lie below `folder` here."""
    path = folder / "host.sh"
    path.write_text(script.replace("/run/host", f"{folder}/host"))
    command = ["sh", "-eu", "-c", f". {path}; printf '%s\\n' " + " ".join(f'"${name}"' for name in variables)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    return done.stdout.splitlines()


def test_a_step_sees_proxies_certificates_mirrors_and_index(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("# é\nCERT $x `y`\n")
    environ = {"http_proxy": "http://u:p'w@h:1", "NO_PROXY": "a,b", "SSL_CERT_FILE": str(tmp_path / "ca"), "OTHER": "x"}
    environ |= {"EPBOX_DEBIAN_MIRROR": "http://m.example/d", "PIP_INDEX_URL": "https://u:s@i.example/simple"}
    script = hostconfig.settings("trixie", environ)
    assert "OTHER" not in script
    assert sourced(script, tmp_path, "http_proxy", "NO_PROXY", "GIT_SSL_CAINFO", "PIP_CERT", "APT_CONFIG", "PIP_CONFIG_FILE") == [
        "http://u:p'w@h:1",
        "a,b",
        *[f"{tmp_path}/host/{name}" for name in ("ca.pem", "ca.pem", "apt.conf", "pip.conf")],
    ]
    files = {path.name: path.read_text() for path in (tmp_path / "host").iterdir()}
    assert (tmp_path / "host").stat().st_mode & 0o777 == 0o700
    assert files["ca.pem"] == "# é\nCERT $x `y`\n"
    assert files["apt.list"].splitlines()[0] == "deb http://m.example/d trixie main"
    assert 'APT::Sandbox::User "root";' in files["apt.conf"]
    assert f'Dir::Etc::SourceList "{tmp_path}/host/apt.list";' in files["apt.conf"]
    assert "index-url = https://u:s@i.example/simple\n" in files["pip.conf"]


def test_a_host_without_settings_gives_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostconfig, "settings", lambda suite, more: "")
    with hostconfig.secret_arguments("trixie") as arguments:
        assert arguments == []


def test_pip_settings_lose_what_a_build_cannot_see(tmp_path: Path) -> None:
    path = tmp_path / "pip.conf"
    path.write_text(
        "[global]\nindex-url = https://i.example/simple\nextra-index-url = file:///opt/p https://j.example/s\nfind-links = /opt/w\n"
    )
    options = hostconfig.pip_options({"PIP_TRUSTED_HOST": "i.example"}, [path, tmp_path / "absent"])
    assert options == {"index-url": "https://i.example/simple", "extra-index-url": "https://j.example/s", "trusted-host": "i.example"}


def test_the_secret_ends_with_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://h:1")
    with hostconfig.secret_arguments("trixie") as arguments:
        option, secret = arguments
        path = Path(secret.removeprefix("id=host,src="))
        assert option == "--secret" and path.stat().st_mode & 0o777 == 0o600 and path.read_text()
    assert not path.exists()


def test_snapshot_sources_name_the_moment_of_the_lock() -> None:
    archive = {"trixie": "Sat, 21 Nov 2026 09:15:44 UTC", "trixie-security": "Sun, 22 Nov 2026 19:58:57 UTC"}
    assert hostconfig.snapshot_sources(archive) == (
        "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/20261121T091544Z trixie main",
        "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian-security/20261122T195857Z trixie-security main",
    )


def test_more_sources_join_the_mirror_in_apt_s_list(tmp_path: Path) -> None:
    line = "deb http://snapshot.invalid/debian trixie main"
    sourced(hostconfig.settings("trixie", {}, (line,)), tmp_path)
    lines = (tmp_path / "host/apt.list").read_text().splitlines()
    assert lines[-1] == line and len(lines) == 4
    assert "Dir::Etc::SourceList" in (tmp_path / "host/apt.conf").read_text()
