"""Pushing: a real registry gets the very bytes that verify proved; what it refuses is one line that says what helps."""

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoints.errors import EngineError, UsageError
from images.build import engine, hostconfig, oci, ship
from images.build.image import Image
from images.build.reference import parse
from tests.helpers import fake_image, tools
from tests.helpers.patience import busy

# bcrypt of "secret"
HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@pytest.fixture
def layout(tmp_path: Path) -> oci.Layout:
    return fake_image.image(tmp_path / "image.tar", {"etc/x": b"content\n"}, {"epbox.recipe": "cpu"})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start Debian's docker-registry on a free port; its host:port."""
    program = tools.need("docker-registry", "skopeo")
    started = []

    def start(password: bool = False, read_only: bool = False) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (tmp_path / "htpasswd").write_text(HTPASSWD)
        auth = {"auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}} if password else {}
        storage = {"filesystem": {"rootdirectory": str(tmp_path / "store")}, "maintenance": {"readonly": {"enabled": read_only}}}
        config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}, **auth}
        (tmp_path / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        started.append(subprocess.Popen([program, "serve", str(tmp_path / "config.yml")], stderr=subprocess.DEVNULL))
        begun = time.monotonic()
        while time.monotonic() - begun < busy(30):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"127.0.0.1:{port}"
            time.sleep(0.1)
        pytest.fail("docker-registry does not listen")

    yield start
    for process in started:
        process.terminate()
        process.wait(busy(30))


def test_a_registry_holds_the_very_bytes_of_the_archive(serve: Callable[..., str], layout: oci.Layout) -> None:
    host = serve()
    assert ship.upload(layout, f"{host}/team/epbox:1") == f"{host}/team/epbox@{layout.digest}"
    accept = {"Accept": oci.MANIFEST}
    for reference in ("1", layout.digest):
        with urllib.request.urlopen(urllib.request.Request(f"http://{host}/v2/team/epbox/manifests/{reference}", headers=accept)) as answer:
            manifest = answer.read()
        assert "sha256:" + hashlib.sha256(manifest).hexdigest() == layout.digest
    assert [layer["digest"] for layer in json.loads(manifest)["layers"]] == list(layout.layers)
    with urllib.request.urlopen(f"http://{host}/v2/team/epbox/blobs/{layout.layers[0]}") as answer:
        assert "sha256:" + hashlib.sha256(answer.read()).hexdigest() == layout.layers[0]


def test_pushing_an_image_pushes_its_normalised_form(
    serve: Callable[..., str], layout: oci.Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "export", lambda where, image, path, name: layout)
    image = Image(f"{serve()}/epbox", "sha256:1", engine.Engine("unix:///nowhere", True, "20.10"))
    assert ship.push(image) == f"{image.name}@{layout.digest}"
    monkeypatch.setattr(ship, "export", lambda *words: pytest.fail("exported a second time"))
    assert ship.push(image, layout) == f"{image.name}@{layout.digest}"


def test_a_registry_that_wants_a_login_says_so_and_takes_docker_s(
    serve: Callable[..., str], layout: oci.Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = serve(password=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(EngineError, match=r"push failed: .*log in \(docker login or skopeo login\)") as caught:
        ship.upload(layout, f"{host}/epbox:1")
    assert caught.value.exit_code == 10
    (tmp_path / "home" / ".docker").mkdir(parents=True)
    (tmp_path / "home" / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    assert ship.upload(layout, f"{host}/epbox:1").endswith(layout.digest)


def test_a_registry_that_refuses_writing_is_named(serve: Callable[..., str], layout: oci.Layout) -> None:
    host = serve(read_only=True)
    with pytest.raises(EngineError, match=rf"{host}/epbox:1: push failed: "):
        ship.upload(layout, f"{host}/epbox:1")


def test_nobody_at_home_is_said_with_what_to_check(layout: oci.Layout, tmp_path: Path) -> None:
    tools.need("skopeo")
    before = set(tmp_path.iterdir())
    with pytest.raises(EngineError, match=r"push failed: .*connection refused; check the name after --tag"):
        ship.upload(layout, "127.0.0.1:1/epbox:1")
    assert set(tmp_path.iterdir()) == before


def test_a_skopeo_that_is_too_old_is_told_apart(layout: oci.Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "skopeo").write_text("#!/bin/sh\necho 'level=fatal msg=\"unknown flag: --preserve-digests\"' >&2; exit 1\n")
    (tmp_path / "skopeo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EngineError, match="unknown flag: --preserve-digests; a newer skopeo is needed"):
        ship.upload(layout, "host.example/epbox:1")


def test_another_digest_than_the_image_s_is_refused(layout: oci.Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "skopeo"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != --digestfile ]; do shift; done\necho sha256:0 >"$2"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with pytest.raises(EngineError, match=f"the registry got sha256:0, the image is {layout.digest}"):
        ship.upload(layout, "host.example/epbox:1")


@pytest.mark.parametrize(
    ("name", "words"), [(None, "the default name names no registry"), ("epbox:1", "names no registry"), ("h/e@sha256:0", "digest")]
)
def test_a_name_that_cannot_be_pushed_is_refused_before_the_build(name: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ship.require_registry(name)


def test_without_skopeo_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **options: None)
    monkeypatch.setattr(hostconfig, "can_install", lambda: False)
    with pytest.raises(EngineError, match=r"pushing an image as it was verified needs skopeo.*apt-get install skopeo"):
        ship.require_registry("host.example/epbox:1")


@pytest.mark.parametrize(("name", "repository"), [("h:5000/a/b:t", "h:5000/a/b"), ("h:5000/a", "h:5000/a"), ("h/a:t", "h/a")])
def test_the_reference_keeps_the_port_and_drops_the_tag(name: str, repository: str) -> None:
    assert parse(name, allow_tag=True).name == repository
