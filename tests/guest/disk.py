"""A read-only disk with Debian's torch for guests: ranks of the alltoall workload run in it by chroot.

A disk, not a part of the initramfs: a guest reads of its 600 MiB only what an import touches, and two guests share one file.
"""

import shutil
import subprocess
from pathlib import Path

from tests.guest.assets import once, run_tool, tool

#: The first suite whose torch has a store without libuv (TCPStore's use_libuv, 2.4).
SUITE = "trixie"
PACKAGES = "python3-torch,python3-psutil"
#: Serial number by which a guest finds the disk.
SERIAL = "torch"
#: Large, and loaded by nothing here.
LEFT_OUT = (
    "./dev/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/perl*",
    "./usr/lib/x86_64-linux-gnu/perl*",
    "./usr/lib/x86_64-linux-gnu/libLLVM*",
    "./usr/lib/x86_64-linux-gnu/libamd*",
    "./usr/lib/python3/dist-packages/networkx*",
    "./usr/lib/libtorch-test",
    "./var/lib/apt",
    "./var/cache",
)
#: What an installation would have made: merged /usr, and update-alternatives' choice.
LINKS = {
    **{name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")},
    **{f"usr/lib/x86_64-linux-gnu/lib{name}.so.3": f"{name}/lib{name}.so.3" for name in ("blas", "lapack")},
}
#: Shapes of operators for torch.compile, a third of the time that an emulated guest needs to import torch: emptied.
EMPTIED = ("usr/lib/python3/dist-packages/torch/_meta_registrations.py",)
#: Where the guest's own file systems are bound.
MOUNTS = ("proc", "sys", "dev", "host", "tmp", "run")
#: All that a rank imports: run once while the disk is made, which proves it whole and leaves the byte code of just these modules.
IMPORTS = "import torch, torch.distributed, psutil, argparse, json; assert torch.distributed.is_gloo_available()"


def build() -> Path:
    """The ext4 image, made when absent. Raises Unavailable."""
    return once("torch", repr((PACKAGES, SUITE, LEFT_OUT, LINKS, EMPTIED, MOUNTS, IMPORTS)), _disk) / "disk"


def _disk(folder: Path) -> None:
    mke2fs = tool("mke2fs")
    root = folder / "root"
    # Extracted, not installed: without maintainer scripts it takes a third of the time.
    run_tool(["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", SUITE, "root.tar"], folder)
    root.mkdir()
    run_tool(["tar", "-x", "-f", "root.tar", "--no-same-owner", *(f"--exclude={name}" for name in LEFT_OUT), "-C", "root"], folder)
    (folder / "root.tar").unlink()
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    for name in EMPTIED:
        (root / name).write_text("")
    for name in MOUNTS:
        (root / name).mkdir(exist_ok=True)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    # By the disk's own loader: it needs neither root nor a chroot.
    python = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", f"{libraries}:{root / 'usr/lib'}", str(root / "usr/bin/python3")]
    done = subprocess.run([*python, "-s", "-c", IMPORTS], env={"PYTHONHOME": str(root / "usr")}, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        # No reason to skip: what is left out above has to change.
        raise RuntimeError(f"Debian's torch does not start from the disk: {done.stderr.strip()}")
    size = int(run_tool(["du", "-sm", "root"], folder).split()[0])
    # No journal and no checksums: it is never written again, and the guest needs fewer modules.
    features = "^has_journal,^metadata_csum,^resize_inode"
    run_tool(
        [mke2fs, "-q", "-t", "ext4", "-O", features, "-m", "0", "-d", "root", "disk", f"{size + size // 10 + 64}M"],
        folder,
    )
    shutil.rmtree(root)
