"""The GPU images on a machine without a GPU: all that holds before a driver is there.

`./inv test --gpu-images` runs these and nothing else, over the images that are built here (./inv build --recipe NAME).
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from images.build import engine as engines
from images.build.recipe import Cuda, DeepEP, Nvshmem, Recipe, load_recipe

Python = Callable[[str], str]

LOADED = """
import ctypes, os
import torch
maps = open("/proc/self/maps").read().split()
print(sorted({os.path.realpath(word) for word in maps if os.path.basename(word).startswith(("libnvshmem_host.so", "libnccl.so"))}))
"""


@dataclass(frozen=True)
class GpuRecipe:
    """A recipe with the parts that every GPU image has."""

    recipe: Recipe
    cuda: Cuda
    nvshmem: Nvshmem
    deepep: DeepEP

    @property
    def name(self) -> str:
        return self.recipe.name


@pytest.fixture(scope="module", params=["deepep-v1", "deepep-v2"])
def what(request: pytest.FixtureRequest) -> GpuRecipe:
    loaded = load_recipe(request.param)
    assert loaded.cuda and loaded.nvshmem and loaded.deepep
    return GpuRecipe(loaded, loaded.cuda, loaded.nvshmem, loaded.deepep)


@pytest.fixture(scope="module")
def image(engine: engines.Engine, what: GpuRecipe) -> Any:
    import docker

    try:
        return engine.client().images.get(f"epbox:{what.name}")
    except docker.errors.ImageNotFound:
        pytest.skip(f"epbox:{what.name} is not built here: ./inv build --recipe {what.name}")


@pytest.fixture(scope="module")
def sh(engine: engines.Engine, image: Any) -> Callable[..., str]:
    def run(script: str, **options: Any) -> str:
        output = engine.client().containers.run(
            image.id, ["-c", script], entrypoint="/bin/sh", remove=True, network_mode="none", stderr=True, **options
        )
        return str(output.decode())

    return run


def test_size_is_within_its_budget(image: Any, what: GpuRecipe) -> None:
    assert 1e9 < image.attrs["Size"] <= what.recipe.build.size_mb * 1e6


def test_labels_name_the_recipe(image: Any, what: GpuRecipe) -> None:
    assert image.labels["epbox.recipe"] == what.name
    assert image.labels["org.opencontainers.image.title"] == what.recipe.title
    assert image.attrs["Config"]["Entrypoint"] == ["epbox"]


def test_v1_has_no_compiler_and_v2_has_one(sh: Callable[..., str], what: GpuRecipe) -> None:
    found = sh("for tool in gcc g++ nvcc cmake pip /usr/local/cuda/bin/nvcc; do command -v $tool; done; true").split()
    assert found == [] if what.deepep.generation == "v1" else {"/usr/bin/g++", "/usr/local/cuda/bin/nvcc"} <= set(found)
    assert not {"/usr/bin/cmake", "/usr/bin/pip"} & set(found)


@pytest.mark.parametrize("tool", ["ibv_devinfo", "ibstat", "ib_write_bw", "numactl"])
def test_tools_for_the_fabric_are_there(sh: Callable[..., str], tool: str) -> None:
    assert sh(f"command -v {tool}").startswith("/usr/")
    assert "libmlx5" in sh("ls /usr/lib/*/libmlx5.so.1 /usr/lib/*/libibverbs/")


def test_one_nvshmem_and_one_nccl_are_loaded(sh: Callable[..., str], what: GpuRecipe) -> None:
    loaded = json.loads(sh(f"python3 - <<'E'\n{LOADED}\nE", user="1234").strip().replace("'", '"'))
    assert len(loaded) == 2, loaded
    nccl, nvshmem = sorted(loaded, key=lambda path: "nvshmem" in path)
    assert nccl.endswith("/nvidia/nccl/lib/libnccl.so.2")
    assert nvshmem.startswith(
        "/opt/nvshmem/lib/" if what.nvshmem.source == "source" else "/usr/local/lib/python3.13/dist-packages/nvidia/nvshmem/"
    )


def test_ibgda_loads_with_every_symbol(sh: Callable[..., str], what: GpuRecipe) -> None:
    root = "/opt/nvshmem" if what.nvshmem.source == "source" else "/usr/local/lib/python3.13/dist-packages/nvidia/nvshmem"
    sh(f"python3 -c 'import ctypes, os; ctypes.CDLL(\"{root}/lib/nvshmem_transport_ibgda.so.3\", os.RTLD_NOW)'")
    if what.nvshmem.source == "source":
        assert "NVSHMEM_IBGDA_SUPPORT=ON" in sh("cat /opt/nvshmem/share/build/nvshmem-info.txt")
        log = sh("cat /opt/nvshmem/share/build/configure.log")
        for probe in ("HAVE_MLX5DV_UAR_ALLOC_TYPE_NC_DEDICATED", "HAVE_MLX5DV_UMEM_MASK_DMABUF"):
            assert f"Performing Test {probe} - Success" in log


def test_deepep_was_built_with_that_nvshmem_and_without_a_driver_ends_there(sh: Callable[..., str], what: GpuRecipe) -> None:
    assert re.search(r"^ > NVSHMEM path: /\S+/?nvshmem$", sh("cat /opt/deepep/build/build.log"), re.MULTILINE)
    assert f"+{what.deepep.commit[:7]}" in sh("ls /usr/local/lib/python3.13/dist-packages")
    text = sh("python3 -c 'import torch, deep_ep' 2>&1 || true")
    if what.deepep.generation == "v1":
        assert re.search(r"ImportError: libcuda\.so\.1: cannot open shared object file", text), text
    else:  # V2 opens the driver when it is first used
        assert "Error" not in text, text


def test_deepep_s_tests_are_those_of_the_commit(sh: Callable[..., str], what: GpuRecipe) -> None:
    folder = "tests" if what.deepep.generation == "v1" else "tests/legacy"
    assert f"{folder}/test_internode.py" in sh(f"cd /opt/deepep && ls {folder}/*.py")
    source = os.environ.get("EPBOX_SOURCE_DEEPEP")
    if not source:
        pytest.skip("EPBOX_SOURCE_DEEPEP names no DeepEP repository to compare with")
    listing = ["git", "-c", "safe.directory=*", "-C", source, "ls-tree", "-r", what.deepep.commit, "tests/"]
    rows = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    expected = {row.split("\t")[1]: row.split()[2] for row in rows}
    code = (
        "import hashlib, json, pathlib; root = pathlib.Path('/opt/deepep'); print(json.dumps({str(f.relative_to(root)):"
        " hashlib.sha1(b'blob %d\\0' % len(f.read_bytes()) + f.read_bytes()).hexdigest() for f in root.glob('tests/**/*') if f.is_file()}))"
    )
    assert json.loads(sh(f'python3 -c "{code}"')) == expected


def test_v2_kernels_compile_in_the_image_as_any_user(sh: Callable[..., str], what: GpuRecipe) -> None:
    if not what.cuda.runtime_compiler:
        pytest.skip("this recipe compiles nothing at run time")
    site = "/usr/local/lib/python3.13/dist-packages"
    sources = r"#include <deep_ep/impls/dispatch.cuh>\n__global__ void any(int* p) { *p = 1; }\n"
    words = f"-std=c++20 -arch=sm_90a -cubin -I{site}/deep_ep/include -I{site}/nvidia/nccl/include -o any.cubin any.cu"
    script = f"cd /var/cache/deepep && printf '{sources}' >any.cu && /usr/local/cuda/bin/nvcc {words} && wc -c <any.cubin"
    assert int(sh(script, user="1234").split()[-1]) > 1000


def test_nobody_may_write_and_no_trace_of_the_build_is_left(sh: Callable[..., str]) -> None:
    assert sh("find / -xdev -type f -perm -o+w ! -path '/proc/*'") == ""
    assert sh("find / -xdev -type d -perm -o+w ! -perm -1000 ! -path '/proc/*'") == ""
    assert sh("ls -A /root/.cache /var/cache/pip /run/secrets /build /source 2>/dev/null || true") == ""
    assert sh("find / -xdev -perm /6000 -type f ! -path '/proc/*'") == ""


def test_any_user_may_run_it_read_only(engine: engines.Engine, image: Any, what: GpuRecipe) -> None:
    output = engine.client().containers.run(
        image.id, ["plan", "--ranks", "2"], user="1234", read_only=True, cap_drop=["ALL"], network_mode="none", remove=True, stderr=True
    )
    assert output
