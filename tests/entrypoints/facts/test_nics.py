"""NICs and GIDs: one list, one rule; what is unknown is called unknown."""

import json
import re
import subprocess
from dataclasses import replace

import pytest

from entrypoints.facts import nics
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import Hca
from tests.helpers.placing import ROOT, nic, rails, with_hcas

IPV4, IPV6, LINK_LOCAL = "0000:0000:0000:0000:0000:ffff:0a00:0001", "2001:0db8:0000:0000:0000:0000:0000:0001", "fe80::bace:f6ff:fe00:1"


@pytest.mark.parametrize(
    ("gid", "gid_type", "routable"),
    [
        (IPV4, "RoCE v2", True),
        (IPV6, "RoCE v2", True),
        ("fd00::1", "RoCE v2", True),
        (LINK_LOCAL, "RoCE v2", False),
        ("0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2", False),
        (IPV4, "IB/RoCE v1", False),
        (IPV4, None, None),
        (LINK_LOCAL, None, None),
        ("", "RoCE v2", None),
        ("garbage", "RoCE v2", None),
    ],
)
def test_routable_gids(gid: str, gid_type: str | None, routable: bool | None) -> None:
    assert nics.is_routable_gid(gid, gid_type) is routable


@pytest.mark.parametrize(
    ("driver", "vendor", "name", "kind"),
    [
        ("mlx5_core", "0x15b3", "rocep1s0", "mlx5"),
        ("mlx5_core.sf", None, "mlx5_9", "mlx5"),
        ("rdma_rxe", None, "mlx5_0", "rxe"),
        ("ionic", None, "ionic_0", "ionic"),
        ("hns3", None, "hns_0", "hns"),
        ("mana", None, None, "mana"),
        (None, "0x17db", "cxi0", "cxi"),
        (None, "0x15b3", "mlx4_0", "mlx4"),
        (None, "0x8086", "hfi1_0", "hfi1"),
        (None, "0x8086", "rocep4s0", "irdma"),
        (None, None, "rdmap0s6", "efa"),
        ("a_driver_of_tomorrow", "0x15b3", "mlx5_0", None),
        (None, "0xbeef", "xyz0", None),
        (None, "not a number", None, None),
        (None, None, None, None),
    ],
)
def test_identify(driver: str | None, vendor: str | None, name: str | None, kind: str | None) -> None:
    identified = nics.identify(driver, vendor, name)
    assert (identified.id if identified else None) == kind


def test_what_ibgda_cannot_drive() -> None:
    assert nics.foreign_to_ibgda("efa", "0x1d0f", "rdmap0s6") == "AWS EFA"
    assert nics.foreign_to_ibgda("mlx5_core", "0x15b3", "rocep1s0") is None
    assert nics.foreign_to_ibgda(None, None, "roce_rail3") is None, "an unknown device may be an mlx5"
    assert nics.foreign_to_ibgda("a_driver_of_tomorrow", None, "mlx5_0") == "a_driver_of_tomorrow"


@pytest.mark.parametrize("name", sorted(set(nics.foreign_names())))
def test_no_rail_of_deepep_is_of_another_nic(name: str) -> None:
    """Every NIC of the list beside mlx5 rails is left out of a plan, by its name alone."""
    host = with_hcas(rails(), nic(f"{name}7", "0000:f0:00.0", 0, ("pci0000:f0",)))
    assert f"{name}7" in dict(make_plan(host, PlanOptions(environ={})).excluded)


def test_a_driver_that_nobody_knows_is_called_by_its_name() -> None:
    host = rails()
    strange: tuple[Hca, ...] = tuple(replace(hca, driver="a_driver_of_tomorrow") for hca in host.hcas)
    plan = make_plan(replace(host, hcas=strange), PlanOptions(environ={}))
    assert "IBGDA cannot drive a_driver_of_tomorrow" in json.dumps(plan.to_json())


def test_nics_are_listed_once() -> None:
    """Three kernel drivers or names of other NICs on one line, or one after the other, are a second list of them."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "entrypoints", "images", "templates", "tasks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    words = {word for kind in nics.nics() if kind.ibgda is False for word in (*kind.drivers, *kind.names) if len(word) > 3}
    word = re.compile(rf"(?<![a-z0-9])({'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})(?![a-z])")
    lists = []
    for name in files:
        path = ROOT / name
        if path.is_file() and path.name not in ("nics.toml",) and path.suffix in (".py", ".toml", ".j2", ".sh"):
            lines = path.read_text().splitlines()
            lists += [f"{name}:{i + 1}" for i in range(len(lines)) if len(set(word.findall(" ".join(lines[i : i + 3])))) > 2]
    assert lists == []
