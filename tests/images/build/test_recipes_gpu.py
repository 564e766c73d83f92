"""The GPU recipes as whole Dockerfiles (EPBOX_UPDATE_GOLDEN=1 renews them), and what must be true of every one."""

import re
from pathlib import Path

import pytest

from images.build import lock, recipe, render, resolve
from tests.helpers.golden import expected

GOLDEN = Path("tests/golden/dockerfile")
NAMES = [name for name in recipe.names() if name.startswith("deepep-")]


@pytest.mark.parametrize("name", NAMES)
def test_the_dockerfile_is_the_golden_one(name: str) -> None:
    what = recipe.load_recipe(name)
    text = render.render_dockerfile(what, lock.load(what))
    assert text == expected(GOLDEN / f"{name}.Dockerfile", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_lock_holds_every_input_by_hash(name: str) -> None:
    what = recipe.load_recipe(name)
    document = lock.load(what)
    assert document is not None
    assert document.wheels and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in document.wheels.values())
    ids = [name for each in document.git.values() for name in (each.commit, each.tree)]
    assert ids and all(re.fullmatch(r"[0-9a-f]{40}", name or "") for name in ids)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", document.base.digest)
    assert bool(document.packages) == (what.base.kind == "debian")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_step_mounts_is_in_the_context(name: str, tmp_path: Path) -> None:
    what = recipe.load_recipe(name)
    out = render.render_to(what, tmp_path / "out", lock.load(what))
    mounted = re.findall(r"--mount=type=bind,source=([^,]+),", (out / "Dockerfile").read_text())
    assert "steps/deepep.sh" in mounted and not [path for path in mounted if not (out / path).exists()]


@pytest.mark.parametrize("name", NAMES)
def test_every_wheel_has_a_hash_and_one_version(name: str) -> None:
    for path in (Path("images/locks") / name).glob("*.txt"):
        blocks = re.split(r"\n(?=\S)", path.read_text().strip())
        assert len(blocks) > 5, path
        for block in blocks:
            assert re.match(r"[a-z0-9-]+==[0-9][^ ]* \\\n", block), block
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block


def test_nvshmem_is_there_once() -> None:
    assert "nvshmem" not in Path("images/locks/deepep-v1/torch.txt").read_text(), "torch would bring a second one beside the source build"
    v2 = Path("images/locks/deepep-v2/torch.txt").read_text()
    what = recipe.load_recipe("deepep-v2")
    assert what.nvshmem is not None and what.nccl is not None, "deepep-v2 names both"
    assert re.findall(r"^nvidia-nvshmem-cu13==(\S+)", v2, re.MULTILINE) == [what.nvshmem.version]
    assert re.findall(r"^nvidia-nccl-cu13==(\S+)", v2, re.MULTILINE) == [what.nccl.version]


def test_locks_hold_the_torch_of_the_recipe() -> None:
    for name in NAMES:
        torch = recipe.load_recipe(name).torch
        assert torch is not None, f"{name} names no torch"
        assert f"torch=={torch.version} " in Path(f"images/locks/{name}/torch.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_compile_steps_see_no_network_secret(name: str) -> None:
    """Proxy or CA settings of a build host must not decide whether NVSHMEM is compiled again."""
    text = render.render_dockerfile(recipe.load_recipe(name))
    steps = [
        step for step in text.split("\nRUN ") if re.search(r"sh /run/steps/(nvshmem|deepep|cuda-toolchain|gpu-check|torch-trim)\b", step)
    ]
    assert len(steps) >= 3
    assert not [step for step in steps if "type=secret" in step or "host.sh" in step]


def test_requirements_follow_the_recipe() -> None:
    v1, v2, cuda12 = (resolve.wheel_requirements(recipe.load_recipe(name)) for name in ("deepep-v1", "deepep-v2", "deepep-v1-cuda12"))
    assert v1["torch.txt"] == ("torch==2.11.0", "numpy")
    assert v2["torch.txt"] == ("torch==2.11.0", "numpy", "nvidia-nvshmem-cu13==3.4.5", "nvidia-nccl-cu13==2.30.7")
    assert set(v1) == {"torch.txt", "toolkit.txt"}
    assert set(cuda12) == {"torch.txt"}, "the base brings its toolkit"
    assert resolve.wheel_requirements(recipe.load_recipe("cpu")) == {}


def test_a_source_build_leaves_torch_s_own_nvshmem_out(tmp_path: Path) -> None:
    paths = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert "nvidia-nvshmem-cu13" in resolve.uv_command(recipe.load_recipe("deepep-v1"), *paths)
    assert "nvidia-nvshmem-cu13" not in resolve.uv_command(recipe.load_recipe("deepep-v2"), *paths)
