"""The host's proxies, CA bundle and mirrors become secrets, and only what a build can reach."""

from pathlib import Path

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


def test_proxies_are_quoted_and_their_case_is_kept(tmp_path: Path) -> None:
    environ = {"http_proxy": "http://u:p'w@h:1", "NO_PROXY": "a,b", "SSL_CERT_FILE": str(tmp_path / "ca"), "OTHER": "x"}
    (tmp_path / "ca").write_text("CERT")
    found = hostconfig.secrets("trixie", {**environ, "EPBOX_DEBIAN_MIRROR": "http://m.example/d"})
    assert found["host.env"].decode() == "NO_PROXY=a,b\nhttp_proxy='http://u:p'\"'\"'w@h:1'\n"
    assert found["ca.pem"] == b"CERT"
    assert found["apt.list"].decode().splitlines()[0] == "deb http://m.example/d trixie main"
    assert 'APT::Sandbox::User "root";' in found["apt.conf"].decode()
    assert 'Dir::Etc::SourceList "/run/secrets/apt.list";' in found["apt.conf"].decode()


def test_pip_settings_lose_what_a_build_cannot_see(tmp_path: Path) -> None:
    path = tmp_path / "pip.conf"
    path.write_text(
        "[global]\nindex-url = https://i.example/simple\nextra-index-url = file:///opt/p https://j.example/s\nfind-links = /opt/w\n"
    )
    options = hostconfig.pip_options({"PIP_TRUSTED_HOST": "i.example"}, [path, tmp_path / "absent"])
    assert options == {"index-url": "https://i.example/simple", "extra-index-url": "https://j.example/s", "trusted-host": "i.example"}


def test_secret_files_end_with_the_build() -> None:
    with hostconfig.secret_arguments("trixie") as arguments:
        paths = [Path(word.partition("src=")[2]) for word in arguments if word.startswith("id=")]
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
    assert paths and not any(path.exists() for path in paths)


def test_snapshot_sources_name_the_moment_of_the_lock() -> None:
    archive = {"trixie": "Sat, 21 Nov 2026 09:15:44 UTC", "trixie-security": "Sun, 22 Nov 2026 19:58:57 UTC"}
    assert hostconfig.snapshot_sources(archive) == (
        "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/20261121T091544Z trixie main",
        "deb [check-valid-until=no] http://snapshot.debian.org/archive/debian-security/20261122T195857Z trixie-security main",
    )


def test_more_sources_join_the_mirror_in_the_apt_secret() -> None:
    line = "deb http://snapshot.invalid/debian trixie main"
    found = hostconfig.secrets("trixie", {}, (line,))
    assert found["apt.list"].decode().splitlines()[-1] == line and len(found["apt.list"].splitlines()) == 4
    assert b"Dir::Etc::SourceList" in found["apt.conf"]
