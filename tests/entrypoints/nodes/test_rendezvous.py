"""Node rank, count and master from every scheduler's environment; contradictions name both sides."""

import argparse
import contextlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.nodes import sources
from entrypoints.nodes.rendezvous import NodeFacts, add_options, check_agreement, resolve
from entrypoints.nodes.sources import LocalRank, find_local_rank

SLURM = {"SLURM_NODEID": "1", "SLURM_NNODES": "4", "SLURM_JOB_NODELIST": "n[01-03],gpu-7", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
LWS = {"LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "bench-0.bench.ns"}
OMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, "127.0.0.1", 8361)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1, "127.0.0.1", 8361)),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}, (1, 2, "10.0.0.1", 29500)),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "fd00::1"}, (1, 2, "fd00::1", 8361)),
        (LWS, (1, 2, "bench-0.bench.ns", 8361)),
        (SLURM, (1, 4, "n01", 8361)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[02-03]"}, (1, 2, "n02", 8361)),
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n5", "SLURM_TASKS_PER_NODE": "8"}, (0, 1, "n5", 8361)),
        ({**SLURM, "MASTER_ADDR": "ib-n01"}, (1, 4, "ib-n01", 8361)),
        ({**OMPI, "MASTER_ADDR": "h0"}, (1, 2, "h0", 8361)),
        ({**SLURM, **OMPI, "SLURM_NODEID": "0", "MASTER_ADDR": "h0"}, (1, 2, "h0", 8361)),
        ({"PMI_RANK": "1", "PMI_SIZE": "3", "MASTER_ADDR": "h0"}, (1, 3, "h0", 8361)),
        ({"JOB_COMPLETION_INDEX": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "bench-0.bench"}, (2, 4, "bench-0.bench", 8361)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "h0"}, (1, 2, "h0", 8361)),
    ],
)
def test_schedulers(environ: dict[str, str], expected: tuple[int, int, str, int]) -> None:
    rendezvous = resolve(None, environ)
    assert (rendezvous.node_rank, rendezvous.nodes, rendezvous.master_addr, rendezvous.master_port) == expected
    assert rendezvous.environment()["WORLD_SIZE"] == str(expected[1]), "DeepEP's WORLD_SIZE counts nodes"


def test_flags_alone_and_beside_torchrun() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    flags = parser.parse_args(["--nodes", "2", "--node-rank", "1", "--master-addr", "h0", "--master-port", "9000"])
    for environ in ({}, {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}):
        found = resolve(flags, environ)
        assert (found.node_rank, found.nodes, found.master_addr, found.master_port) == (1, 2, "h0", 9000)


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ({"nodes": 2}, {"WORLD_SIZE": "4", "RANK": "0"}, ["--nodes says 2", "WORLD_SIZE says 4"]),
        ({}, {**SLURM, "RANK": "2"}, ["RANK says 2", "SLURM_NODEID says 1"]),
        ({}, {**LWS, "WORLD_SIZE": "3"}, ["WORLD_SIZE says 3", "LWS_GROUP_SIZE says 2"]),
        ({}, {"JOB_COMPLETION_INDEX": "1", "RANK": "0", "WORLD_SIZE": "2"}, ["RANK says 0", "JOB_COMPLETION_INDEX says 1"]),
        ({}, {"JOB_COMPLETION_INDEX": "1"}, ["JOB_COMPLETION_INDEX", "of how many", "WORLD_SIZE or --nodes"]),
        ({}, {"WORLD_SIZE": "2", "MASTER_ADDR": "h"}, ["WORLD_SIZE", "which one this is", "RANK or --node-rank"]),
        ({}, {"WORLD_SIZE": "2", "RANK": "1"}, ["no address of node 0", "MASTER_ADDR or --master-addr"]),
        ({}, {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "h"}, ["node rank 2 is not below the 2 nodes"]),
        ({}, {"WORLD_SIZE": "0", "RANK": "0"}, ["0 nodes"]),
        ({"node_rank": -1, "nodes": 2}, {}, ["node rank -1"]),
        ({}, {"WORLD_SIZE": "two"}, ["WORLD_SIZE", "'two' is not a number"]),
        ({}, {"RANK": "-1", "WORLD_SIZE": "2"}, ["RANK", "'-1' is not a number"]),
        (
            {},
            {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
            ["torchrun", "counts ranks", "--nproc-per-node 1"],
        ),
        ({}, {**OMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, ["mpirun starts 8", "ppr:1:node", "exec -- CMD"]),
        ({}, {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_PROCID": "9"}, ["srun starts 8", "--ntasks-per-node=1"]),
        ({}, {**SLURM, "SLURM_JOB_NODELIST": "n[01-02]"}, ["SLURM_JOB_NODELIST", "lists 2 hosts", "SLURM_NNODES=4"]),
        ({}, {**SLURM, "SLURM_JOB_NODELIST": "n[01-"}, ["SLURM_JOB_NODELIST", "unbalanced"]),
        ({"master_port": 65535}, {}, ["65535", "next port"]),
        ({}, {"MASTER_PORT": "0"}, ["port 0"]),
    ],
)
def test_contradictions_and_gaps(flags: dict[str, int], environ: dict[str, str], words: list[str]) -> None:
    names = ("nodes", "node_rank", "master_addr", "master_port")
    with pytest.raises(UsageError) as caught:
        resolve(argparse.Namespace(**{name: flags.get(name) for name in names}), environ)
    assert caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[01-04,7],gpu-[1-2]", ["n01", "n02", "n03", "n04", "n7", "gpu-1", "gpu-2"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("r[1-2]n[1-2]x", ["r1n1x", "r1n2x", "r2n1x", "r2n2x"]),
        ("a,b,c", ["a", "b", "c"]),
        ("", []),
    ],
)
def test_host_lists(text: str, hosts: list[str]) -> None:
    assert sources.expand_hostlist(text) == hosts


@pytest.mark.parametrize("text", ["n[1", "n1]", "n[[1]]", "n[a-b]", "n[3-1]", "n[1-99999999]", "n[]", "n[1-9][1-99999]"])
def test_bad_host_lists(text: str) -> None:
    with pytest.raises(ValueError):
        sources.expand_hostlist(text)


@given(st.text(alphabet="n[]-,0123456789", max_size=20))
def test_host_lists_never_crash(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert all("[" not in host for host in sources.expand_hostlist(text))


@given(st.integers(0, 200), st.integers(0, 30), st.integers(1, 4))
def test_host_ranges_round_trip(low: int, count: int, width: int) -> None:
    names = [f"n{i:0{width}d}" for i in range(low, low + count + 1)]
    if len({len(name) for name in names}) == 1 or width == 1:
        assert sources.expand_hostlist(f"n[{low:0{width}d}-{low + count:0{width}d}]") == names


def test_an_indexed_job_finds_its_first_pod() -> None:
    found = sources.indexed_job({"JOB_COMPLETION_INDEX": "12"}, lambda: "bench-12.bench.ns.svc.cluster.local")
    assert found is not None and found.node_rank == 12 and found.master_addr == "bench-0.bench.ns.svc.cluster.local"
    other = sources.indexed_job({"JOB_COMPLETION_INDEX": "3"}, lambda: "renamed")
    assert other is not None and other.master_addr is None


def test_the_kubelets_hosts_file_gives_the_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "bench-1")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.0.0.9\tbench-1.bench.ns.svc.cluster.local\tbench-1 # pod\n")
    assert sources.full_host_name(str(hosts)) == "bench-1.bench.ns.svc.cluster.local"
    assert sources.full_host_name(str(tmp_path / "none")) == "bench-1"


@pytest.mark.parametrize(
    ("environ", "ranks", "expected"),
    [
        ({}, None, None),
        ({"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}, None, (3, 8, "torchrun")),
        ({"SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_STEP_ID": "0"}, None, (3, 8, "Slurm")),
        ({"SLURM_LOCALID": "3", "SLURM_NTASKS_PER_NODE": "4"}, None, (3, 4, "Slurm")),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "SLURM_LOCALID": "0"}, None, (1, 2, "Open MPI")),
        ({"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, None, (1, 2, "Hydra")),
        ({"PALS_LOCAL_RANKID": "5"}, 6, (5, 6, "PALS")),
        ({"FLUX_TASK_LOCAL_ID": "1"}, None, (1, None, "Flux")),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}, None, (1, 8, "torchrun")),
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "1"}, 8, None),
    ],
)
def test_local_ranks_of_launchers(environ: dict[str, str], ranks: int | None, expected: tuple[int, int | None, str] | None) -> None:
    found = find_local_rank(environ, ranks)
    if expected is None:
        assert found is None
    else:
        assert isinstance(found, LocalRank)
        assert (found.local_rank, found.ranks) == expected[:2] and found.source.startswith(expected[2])


@pytest.mark.parametrize(
    ("environ", "ranks", "words"),
    [
        ({"LOCAL_RANK": "8", "LOCAL_WORLD_SIZE": "8"}, None, "LOCAL_RANK=8 is not below the 8"),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "8"}, 4, "--ranks 4, but LOCAL_WORLD_SIZE=8"),
        ({"LOCAL_RANK": "x"}, None, "'x' is not a number"),
    ],
)
def test_launchers_that_contradict(environ: dict[str, str], ranks: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        find_local_rank(environ, ranks)


FACTS = NodeFacts(hostname="a", lock="sha256:aa", ranks=8, rails=["mlx5_0:1", "mlx5_1:1"], workload="deepep-v1")


def other(host: str, **changed: Any) -> NodeFacts:
    return replace(FACTS, hostname=host, **changed)


def test_nodes_that_agree() -> None:
    check_agreement([FACTS, other("b"), other("c")])
    check_agreement([NodeFacts(hostname="a"), NodeFacts(hostname="b")])
    check_agreement([replace(FACTS, lock=None, rails=[None]), other("b", lock=None, rails=[None])])


def test_facts_of_another_version_are_read_as_far_as_they_go() -> None:
    assert NodeFacts.from_json(json.loads(json.dumps(asdict(FACTS)))) == FACTS
    assert NodeFacts.from_json({"hostname": "a", "lock": "x", "of a later version": 1}) == NodeFacts(hostname="a", lock="x")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lock": "sha256:bb"}, ["lock digest", "node 1 (b) has sha256:bb", "the others sha256:aa", "by digest"]),
        ({"ranks": 4}, ["number of ranks", "node 1 (b) has 4", "the others 8"]),
        ({"rails": ["mlx5_1:1", "mlx5_0:1"]}, ["rail order", "node 1 (b) has mlx5_1:1,mlx5_0:1"]),
        ({"workload": "alltoall"}, ["workload", "node 1 (b) has alltoall"]),
        ({"lock": None}, ["lock digest", "node 1 (b) has None"]),
        ({"hostname": "a"}, ["nodes 0, 1 all call themselves a", "NVSHMEM", "--hostname"]),
    ],
)
def test_the_node_that_differs_is_named(changed: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(PreflightFailed) as caught:
        check_agreement([FACTS, replace(other("b"), **changed), other("c")])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_all_differences_are_told_at_once() -> None:
    with pytest.raises(PreflightFailed) as caught:
        check_agreement([FACTS, other("a", ranks=4, lock="x")])
    assert all(word in str(caught.value) for word in ("lock digest", "number of ranks", "host name"))
