"""Hash-locked requirement files of the GPU recipes (images/locks/RECIPE/).

`python -m images.build.wheels RECIPE...` renews them with uv.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError, EPBoxError
from entrypoints.output import say

from .lock import LOCKS
from .recipe import Recipe, load_recipe

#: What nvcc, NVSHMEM and DeepEP compile with: the compiler, headers, the runtime, NVML and NVTX.
TOOLKIT = "nvcc,cudart,cccl,crt,nvvm,nvml,nvtx"


def requirements(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """File name to what it shall satisfy; exact versions where the recipe has them. Empty for a recipe without wheels."""
    if not (recipe.torch and recipe.torch.source == "wheel" and recipe.cuda):
        return {}
    major = recipe.cuda.version.split(".")[0]
    torch = [f"torch=={recipe.torch.version}", "numpy"]  # DeepEP's tests import numpy
    if recipe.nvshmem and recipe.nvshmem.source == "wheel":
        torch.append(f"nvidia-nvshmem-cu{major}=={recipe.nvshmem.version}")
    if recipe.nccl:
        torch.append(f"nvidia-nccl-cu{major}=={recipe.nccl.version}")
    files = {"torch.txt": tuple(torch)}
    if recipe.cuda.source == "wheel":
        files["toolkit.txt"] = (f"cuda-toolkit[{TOOLKIT}]=={recipe.cuda.version}.*",)
    return files


def command(recipe: Recipe, asked: Path, overrides: Path, target: Path) -> list[str]:
    """uv's call for one file. Torch pins NCCL and NVSHMEM: the recipe's versions override that; a source build leaves the wheel out."""
    major = recipe.cuda.version.split(".")[0] if recipe.cuda else ""
    words = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", str(asked), "--output-file", str(target)]
    words += ["--python-version", recipe.python.version, "--python-platform", "x86_64-manylinux_2_28", "--no-python-downloads"]
    words += [
        "--only-binary",
        ":all:",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--override",
        str(overrides),
    ]
    if recipe.nvshmem and recipe.nvshmem.source == "source":
        words += ["--no-emit-package", f"nvidia-nvshmem-cu{major}"]
    return words


def compile_locks(recipe: Recipe, folder: Path = LOCKS) -> list[Path]:
    """Resolve all files of a recipe. EngineError with uv's words when that fails; a file is replaced only by a whole one."""
    written = []
    for name, lines in requirements(recipe).items():
        target = folder / recipe.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="epbox-wheels-", dir=target.parent) as work:
            asked, overrides, fresh = Path(work, "asked.in"), Path(work, "overrides.txt"), Path(work, name)
            asked.write_text("\n".join(lines) + "\n")
            overrides.write_text("".join(f"{line}\n" for line in lines if line.startswith("nvidia-")))
            if target.exists():
                fresh.write_text(target.read_text())  # uv keeps what still fits
            done = subprocess.run(command(recipe, asked, overrides, fresh), capture_output=True, text=True)
            if done.returncode != 0:
                raise EngineError(f"uv cannot resolve {', '.join(lines)}: {done.stderr.strip()[-400:]}", where=f"{recipe.name}/{name}")
            fresh.replace(target)
        written.append(target)
    return written


if __name__ == "__main__":
    try:
        for each in sys.argv[1:]:
            for path in compile_locks(load_recipe(each)):
                say(f"locked {path}")
    except EPBoxError as error:
        say(str(error))
        sys.exit(error.exit_code)
