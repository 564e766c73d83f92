"""The normalised image depends on files alone: not on times, order, owners' names, logs or the engine's own records."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from entrypoints.errors import EngineError
from images.build import oci, ship
from images.build.verify import first_difference

EPOCH = 1_700_000_000
FILES = {"etc/a.conf": b"one\n", "usr/bin/tool": b"\x7fELF\0\1", "usr/lib/m.pyc": b"\xf3\r\r\n\1\0\0\0hashhash"}


def export(path: Path, files: dict[str, bytes], late: int, reverse: bool = False, config: dict[str, Any] | None = None) -> Path:
    """A `docker save` archive of one layer whose entries were written `late` seconds after the epoch."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
        for name in sorted([*folders, *files], reverse=reverse):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname = EPOCH + late, f"user{late}"
            info.type, info.mode = (tarfile.DIRTYPE, 0o755) if name in folders else (tarfile.REGTYPE, 0o644)
            info.size = len(files.get(name, b""))
            tar.addfile(info, io.BytesIO(files.get(name, b"")))
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": f"2030-01-01T00:00:{late % 60:02}Z",
        "docker_version": f"2{late}",
        "container": f"{late:064x}",
        "config": {"Cmd": ["bench"], "Labels": {"a": "b"}, "Hostname": f"h{late}", **(config or {})},
        "history": [{"created": f"2030-01-01T00:00:{late % 60:02}Z", "created_by": "COPY"}],
    }
    parts = {"config.json": json.dumps(document).encode(), "x/layer.tar": layer.getvalue()}
    parts["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": ["x/layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def layout(folder: Path, name: str, files: dict[str, bytes], late: int = 5, **options: Any) -> oci.Layout:
    return oci.normalise(export(folder / f"{name}.save", files, late, **options), folder / f"{name}.tar", EPOCH, "epbox:t")


def test_two_exports_of_the_same_files_are_the_same_bytes(tmp_path: Path) -> None:
    noise = {"var/log/dpkg.log": b"today", "var/cache/ldconfig/aux-cache": b"inode", "usr/lib/t.pyc": b"\xf3\r\r\n\0\0\0\0time"}
    noise |= {"etc/machine-id": b"1", "var/lib/dpkg/status-old": b""}
    one = layout(tmp_path, "one", FILES | noise, late=5)
    two = layout(tmp_path, "two", FILES | {name: content + b"!" for name, content in noise.items()}, late=77, reverse=True)
    assert one.digest == two.digest
    assert one.path.read_bytes() == two.path.read_bytes()
    names = {member.name for member, _ in oci.entries(one, one.layers[0])}
    assert set(FILES) <= names and not names & set(noise)


def test_times_are_clamped_and_older_ones_stay(tmp_path: Path) -> None:
    late, early = layout(tmp_path, "late", FILES, 5), layout(tmp_path, "early", FILES, -100)
    assert {member.mtime for member, _ in oci.entries(late, late.layers[0])} == {EPOCH}
    assert {member.mtime for member, _ in oci.entries(early, early.layers[0])} == {EPOCH - 100}


def test_a_layer_older_than_the_commit_is_the_bytes_of_a_new_one(tmp_path: Path) -> None:
    cached = oci.normalise(export(tmp_path / "c.save", FILES, -50), tmp_path / "c.tar", EPOCH, "epbox:t", EPOCH - 100)
    rebuilt = oci.normalise(export(tmp_path / "r.save", FILES, 9000), tmp_path / "r.tar", EPOCH, "epbox:t", EPOCH - 100)
    assert cached.digest == rebuilt.digest
    assert {member.mtime for member, _ in oci.entries(cached, cached.layers[0])} == {EPOCH - 100}
    assert ship.newest_file({"epbox.newest-file": str(EPOCH)}) == EPOCH and ship.newest_file({}) is ship.newest_file(
        {"epbox.newest-file": "x"}
    )


def test_the_archive_s_blobs_have_their_digests_and_its_configuration_nothing_of_the_build(tmp_path: Path) -> None:
    made = layout(tmp_path, "one", FILES)
    assert (made.labels, made.created) == ({"a": "b"}, "2023-11-14T22:13:20Z")
    with tarfile.open(made.path) as archive:
        blobs = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    for name, content in blobs.items():
        assert "/" not in name or name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    [descriptor] = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"])
    assert descriptor["digest"] == made.digest and tuple(layer["digest"] for layer in manifest["layers"]) == made.layers
    config = json.loads(blobs[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    assert (config["config"]["Labels"], config["created"], config["rootfs"]["diff_ids"]) == (made.labels, made.created, list(made.layers))
    assert "Hostname" not in config["config"] and "docker_version" not in config


def test_what_is_no_export_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(EngineError, match="not an export of one image"):
        oci.normalise(tmp_path / "junk", tmp_path / "out.tar", EPOCH)
    assert [path.name for path in tmp_path.iterdir()] == ["junk"]


@pytest.mark.parametrize(
    ("changed", "path", "what"),
    [
        ({"etc/a.conf": b"two\n"}, "etc/a.conf", "content differs"),
        ({"usr/bin/tool": b"\x7fELF\0\2"}, "usr/bin/tool", "content differs"),
        ({"etc/b.conf": b""}, "etc/b.conf", "in one image only"),
    ],
)
def test_the_first_differing_file_is_named(tmp_path: Path, changed: dict[str, bytes], path: str, what: str) -> None:
    difference = first_difference(layout(tmp_path, "one", FILES), layout(tmp_path, "two", FILES | changed))
    assert difference is not None
    assert (difference.layer, difference.path) == (0, path) and what in difference.what


def test_the_difference_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without diffoscope
    one = layout(tmp_path, "one", FILES)
    text = first_difference(one, layout(tmp_path, "two", FILES | {"etc/a.conf": b"two\n"}))
    assert text is not None and "-one\n+two" in text.diff
    binary = first_difference(one, layout(tmp_path, "three", FILES | {"usr/bin/tool": b"\x7fELF\0\2"}))
    assert binary is not None and "first at byte 5: 01 != 02" in binary.diff
    labels = first_difference(one, layout(tmp_path, "four", FILES, config={"Labels": {"a": "c"}}))
    assert labels is not None and "configurations differ" in labels.what
    assert first_difference(one, layout(tmp_path, "five", FILES, 9)) is None


def test_the_layout_as_a_folder_holds_the_same_blobs(tmp_path: Path) -> None:
    made = layout(tmp_path, "one", FILES)
    oci.unpack(made, tmp_path / "folder")
    index = json.loads((tmp_path / "folder/index.json").read_text())
    assert index["manifests"][0]["digest"] == made.digest and (tmp_path / "folder/oci-layout").exists()
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "folder/blobs/sha256").iterdir()}
    assert {f"sha256:{hashlib.sha256(data).hexdigest()}" for data in blobs.values()} == {f"sha256:{name}" for name in blobs}
    assert {layer.removeprefix("sha256:") for layer in made.layers} < set(blobs)
