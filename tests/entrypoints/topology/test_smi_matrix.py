"""`nvidia-smi topo -m` text in every form in which people paste it."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from entrypoints.topology import load, path_level
from entrypoints.topology.model import Topology
from entrypoints.topology.smi_matrix import parse_matrix

CLEAN = """\
\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tNIC2\tNIC3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV18\tNV18\tNV18\tPIX\tNODE\tSYS\tSYS\t0-31,64-95\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tNV18\tNODE\tPIX\tSYS\tSYS\t0-31,64-95\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tNV18\tSYS\tSYS\tPXB\tNODE\t32-63,96-127\t1\t\tN/A
GPU3\tNV18\tNV18\tNV18\t X \tSYS\tSYS\tNODE\tPHB\t32-63,96-127\t1\t\tN/A
NIC0\tPIX\tNODE\tSYS\tSYS\t X \tNODE\tSYS\tSYS
NIC1\tNODE\tPIX\tSYS\tSYS\tNODE\t X \tSYS\tSYS
NIC2\tSYS\tSYS\tPXB\tNODE\tSYS\tSYS\t X \tNODE
NIC3\tSYS\tSYS\tNODE\tPHB\tSYS\tSYS\tNODE\t X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_3
  NIC2: mlx5_bond_0
  NIC3: rocep1s0f1
"""
LEVELS = {0: "PIX NODE SYS SYS", 1: "NODE PIX SYS SYS", 2: "SYS SYS PXB NODE", 3: "SYS SYS NODE PHB"}
NAMES = ["mlx5_0", "mlx5_3", "mlx5_bond_0", "rocep1s0f1"]


def expect_clean(topology: Topology) -> None:
    assert [gpu.index for gpu in topology.gpus] == [0, 1, 2, 3]
    assert [gpu.numa_node for gpu in topology.gpus] == [0, 0, 1, 1]
    assert [gpu.nvlink for gpu in topology.gpus] == [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]
    assert [hca.name for hca in topology.hcas] == NAMES
    assert [hca.numa_node for hca in topology.hcas] == [0, 0, 1, 1]
    for gpu in topology.gpus:
        assert " ".join(path_level(topology, gpu, hca) or "?" for hca in topology.hcas) == LEVELS[gpu.index]


def test_clean_matrix_has_levels_nodes_nvlink_and_names() -> None:
    topology = parse_matrix(CLEAN, "m.txt")
    expect_clean(topology)
    assert topology.warnings == ()
    # The CPU column of nvidia-smi is cut and glued; it is no source of CPUs.
    assert topology.cpus == ()


def prefixed(before: str) -> str:
    return "\n".join(before + line for line in CLEAN.splitlines())


def wrapped(text: str, width: int) -> str:
    """As a terminal of this width shows it, copied with its line ends."""
    lines = [line.expandtabs(8) for line in text.splitlines()]
    return "\n".join(line[i : i + width] for line in lines for i in range(0, max(len(line), 1), width))


FORMS = {
    "spaces for tabs": CLEAN.expandtabs(8),
    "single spaces": "\n".join(" ".join(line.split()) for line in CLEAN.splitlines()),
    "quoted mail": "\n".join(f"> {line}" for line in CLEAN.splitlines()),
    "Markdown fence": f"Here it is:\n```\n{CLEAN}```\n",
    "Markdown table": "\n".join(f"| {' | '.join(line.split(chr(9)))} |" if "\t" in line else line for line in CLEAN.splitlines()),
    "pdsh": "\n".join(f"node-17.cluster: {line}" for line in CLEAN.splitlines()),
    "Windows line ends": CLEAN.replace("\n", "\r\n"),
    "colour codes": CLEAN.replace("GPU0\tGPU1", "\x1b[4mGPU0\tGPU1", 1).replace("ID\n", "ID\x1b[0m\n", 1),
    "colour codes without ESC": CLEAN.replace("GPU0\tGPU1", "[4mGPU0\tGPU1", 1).replace("ID\n", "ID[0m\n", 1),
    "comments before": f"# host a\n# note: GPU0 is old\n\n{CLEAN}",
    "prompt before": f"root@host:~# nvidia-smi topo -m\n{CLEAN}root@host:~#\n",
    "GPU list before": f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n{CLEAN}",
    "CPU column cut": CLEAN.replace("0-31,64-95", "0,2,4,6,8,10").replace("32-63,96-127", "1,3,5,7,9,11"),
    "NUMA column glued": CLEAN.replace("0-31,64-95\t0\t", "0-31,64-950\t").replace("32-63,96-127\t1\t", "32-63,96-1271\t"),
    "header broken": CLEAN.replace("\tNIC2\tNIC3\tCPU", "\nNIC2\tNIC3\tCPU", 1),
    "header broken before the titles": CLEAN.replace("\tCPU Affinity", "\nCPU Affinity", 1),
    "rows broken": CLEAN.replace("SYS\tSYS\t0-31", "SYS\nSYS\t0-31"),
    "legend first": CLEAN[CLEAN.index("NIC Legend") :] + CLEAN[: CLEAN.index("Legend:")],
    "log times": prefixed("2026-05-21 09:40:05,123 - INFO - "),
    "RFC 3339 times": prefixed("2026-05-21T09:40:05.123Z "),
    "rank labels": prefixed("[rank0]: "),
    "kubectl --prefix": prefixed("[pod/nccl-0/main] "),
    "docker compose": prefixed("trainer-1  | "),
    "worker labels": prefixed("(EngineCore pid=123) "),
    "srun -l": prefixed("0: "),
    "cat -n": "\n".join(f"{i:6}\t{line}" for i, line in enumerate(CLEAN.splitlines(), 1)),
    "diff": prefixed("+"),
    "nested quotes": prefixed("> > "),
    "shell comment": prefixed("# "),
    "source comment": prefixed("// "),
    "title on the header's line": f"- **topology:** {CLEAN}",
    "header printed before": CLEAN.replace("GPU0\t X", "\n" + CLEAN.split("\n", 1)[0] + "\nGPU0\t X", 1),
    "source code": "\n".join('\t"' + line.replace("\t", "\\t") + '",' for line in CLEAN.splitlines()),
    "JSON in a log": f"INFO payload={json.dumps(CLEAN)}",
    "no-break spaces": CLEAN.expandtabs(8).replace(" ", "\xa0"),
    "zero-width spaces": CLEAN.replace("GPU", "\u200bGPU"),
    "emphasis": "\n".join("| " + " | ".join(f"**`{cell}`**" for cell in line.split("\t")) + " |" for line in CLEAN.splitlines()),
    "box drawing": CLEAN.replace("\t", "│"),
    "HTML": f"<p>Topology:</p><pre><code>{CLEAN}</code></pre>",
    "HTML table": "".join(f"<tr><td>{line.replace(chr(9), '</td><td>')}</td></tr>\n" for line in CLEAN.splitlines()),
    "legend on one line": CLEAN[: CLEAN.index("  NIC0:")] + " ".join(f"NIC{i}: {name}" for i, name in enumerate(NAMES)),
    "legend with remarks": re.sub(r"(  NIC\d: \S+)", r"\1  -> eth0 10.0.0.1 (rail)", CLEAN),
    "legend without colons": re.sub(r"  (NIC\d): ", r"- \1 ", CLEAN),
    "cells glued": CLEAN.replace("SYS\tSYS\t", "SYSSYS\t").replace("NODE\tPIX\t", "NODEPIX\t"),
    "names glued": CLEAN.replace("NIC2\tNIC3\tCPU", "NIC2NIC3\tCPU"),
    "CPU list with spaces": CLEAN.replace("0-31,64-95", "0-31, 64-95").replace("32-63,96-127", "32-63, 96-127"),
    "last column lost": CLEAN.replace("\t\tN/A", ""),
    "NUMA column first": re.sub(
        r"(\d+-\d+,\d+-\d+)\t(\d)", r"\2\t\1", CLEAN.replace("CPU Affinity\tNUMA Affinity", "NUMA Affinity\tCPU Affinity")
    ),
    "p2p matrix before": f" \tGPU0\tGPU1\t\n GPU0\tX\tOK\t\n GPU1\tOK\tX\t\n\n{CLEAN}",
    "second matrix": f"{CLEAN}\nother host\n{CLEAN.replace('PIX', 'SYS')}",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_alike(form: str) -> None:
    expect_clean(parse_matrix(FORMS[form], "m.txt"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_of_windows_shells(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "anything.bin"
    file.write_bytes(CLEAN.encode(encoding))
    expect_clean(load(str(file)))


def test_header_lost() -> None:
    topology = parse_matrix(CLEAN.split("\n", 1)[1], "m.txt")
    assert [gpu.index for gpu in topology.gpus] == [0, 1, 2, 3]
    assert " ".join(topology.levels[0, f"NIC{i}"] for i in range(4)) == LEVELS[0]
    assert any("header is missing" in warning for warning in topology.warnings)


def test_rows_of_nics_stand_in_for_missing_rows_of_gpus() -> None:
    lines = [line for line in CLEAN.splitlines() if not line.startswith(("GPU2", "GPU3"))]
    topology = parse_matrix("\n".join(lines), "m.txt")
    for gpu in topology.gpus:
        assert " ".join(path_level(topology, gpu, hca) or "?" for hca in topology.hcas) == LEVELS[gpu.index]
    assert any("GPU2, GPU3" in warning and "m.txt:1" in warning for warning in topology.warnings)


def test_upper_triangle_is_enough() -> None:
    text = "\tGPU0\tGPU1\tNIC0\nGPU0\t X \tNV4\tPIX\nGPU1\t\t X \tSYS\n"
    topology = parse_matrix(text.replace("\t\t X", "\tNV4\t X"), "m.txt")
    assert topology.levels == {(0, "NIC0"): "PIX", (1, "NIC0"): "SYS"}


def test_without_legend_nics_keep_their_labels() -> None:
    topology = parse_matrix(CLEAN[: CLEAN.index("NIC Legend")], "m.txt")
    assert [(hca.id, hca.name) for hca in topology.hcas] == [(f"NIC{i}", None) for i in range(4)]
    assert any("NIC0 to NIC3" in warning for warning in topology.warnings)


def test_a_row_with_a_lost_cell_is_not_believed() -> None:
    damaged = CLEAN.replace("GPU2\tNV18\tNV18\t X \tNV18\tSYS", "GPU2\tNV18\tNV18\t X \tSYS", 1)
    topology = parse_matrix(damaged, "m.txt")
    # NIC rows still tell the levels of GPU2.
    assert " ".join(topology.levels[2, f"NIC{i}"] for i in range(4)) == LEVELS[2]
    assert any("m.txt:4" in warning and "GPU2" in warning for warning in topology.warnings)


def test_contradiction_is_told_with_both_lines() -> None:
    topology = parse_matrix(CLEAN.replace("NIC3\tSYS\tSYS\tNODE\tPHB", "NIC3\tSYS\tSYS\tNODE\tPIX"), "m.txt")
    assert topology.levels[3, "NIC3"] == "PHB"
    assert any("m.txt:9" in warning and "line 5" in warning for warning in topology.warnings)


def test_grace_lists_name_the_node_with_cpus_and_the_memory_node() -> None:
    text = (
        "\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
        "GPU0\t X \tNV18\tSYS\t0-71\t0,3-9,11-17\t2\nGPU1\tNV18\t X \tSYS\t72-143\t1,19-25,27-33\t18\n"
    )
    topology = parse_matrix(text, "m.txt")
    assert [gpu.numa_node for gpu in topology.gpus] == [0, 1]
    assert {node.id: node.gpu_memory for node in topology.numa_nodes} == {0: False, 1: False, 2: True, 18: True}


@pytest.mark.parametrize("width", [72, 75, 80, 83, 90, 100, 104, 110])
def test_lines_that_a_terminal_broke_inside_words(width: int) -> None:
    text = CLEAN.replace("  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)\n", "")
    expect_clean(parse_matrix(wrapped(text, width), "m.txt"))


def test_equally_long_lines_are_not_joined() -> None:
    text = "\n".join(line.expandtabs(8).ljust(112) for line in CLEAN.splitlines() if "Connection" not in line)
    expect_clean(parse_matrix(text, "m.txt"))


def test_nvlink_tells_which_columns_are_gpus_where_header_and_rows_are_lost() -> None:
    topology = parse_matrix("\n".join(CLEAN.splitlines()[1:3]), "m.txt")
    assert [gpu.index for gpu in topology.gpus] == [0, 1, 2, 3]
    assert [hca.label for hca in topology.hcas] == ["NIC0", "NIC1", "NIC2", "NIC3"]


def test_a_lost_row_is_unknown_and_not_far() -> None:
    """GPU1's row and all NIC rows are lost: it is known to be on node 0, but NIC1 may be at its own switch."""
    lines = [line for line in CLEAN.splitlines() if not line.startswith(("GPU1", "NIC"))]
    topology = parse_matrix("\n".join(lines), "m.txt")
    assert topology.gpus[1].numa_node is None
    text = "\n".join(lines).replace("NV18", "NODE")
    text = re.sub(r"(GPU[23])\tNODE\tNODE", r"\1\tSYS\tSYS", text)
    topology = parse_matrix(text, "m.txt")
    assert topology.gpus[1].numa_node == 0
    assert [path_level(topology, topology.gpus[1], hca) for hca in topology.hcas] == [None, None, "SYS", "SYS"]


def test_a_matrix_of_peer_status_is_refused() -> None:
    with pytest.raises(UsageError, match=r"m.txt:1: is `topo -p2p` output"):
        parse_matrix(" \tGPU0\tGPU1\t\n GPU0\tX\tGNS\t\n GPU1\tGNS\tX\t\n", "m.txt")


@pytest.mark.parametrize(
    "text",
    [
        "\tNPU0\tNPU1\tCPU Affinity\nNPU0\tX\tHCCS\t0-23\nNPU1\tHCCS\tX\t24-47\n",
        "         GPU 0/0|GPU 0/1|CPU Affinity\nGPU 0/0 |S      |MDF    |0-23\n",
        "mx-smi version: 2\n\tGPU0\tGPU1\nGPU0\tX\tMX\nGPU1\tMX\tX\n",
        "| MTHREADS | Device 0 | Device 1 |\n| Device 0 | X | NODE |\n",
        "0000:0c:00.0 SELF XGMI\n0000:22:00.0 XGMI SELF\n",
    ],
)
def test_matrices_of_other_devices_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(UsageError, match=r"m.txt:\d: is a matrix of other devices than NVIDIA GPUs \(.+\); give `nvidia-smi topo -m`"):
        load(str(tmp_path / "m.txt"))


def test_a_header_inside_a_row_that_goes_on() -> None:
    """A table of numbers whose last row is cut, a header, and the rest of that row."""
    text = "\tGPU0\tGPU1\nGPU0\t0\n\tGPU0\tGPU1\n15\nGPU0\tX\tNV4\nGPU1\tNV4\tX\n"
    assert [gpu.nvlink for gpu in parse_matrix(text, "m.txt").gpus] == [(1,), (0,)]


def test_a_list_of_nodes_is_a_node_on_grace_only() -> None:
    """A job on POWER9 with memory of both sockets: CPU nodes 0 and 8, and the GPUs' 252-255."""
    topology = parse_matrix(
        "\tGPU0\tmlx5_0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tSYS\t0-3\t0,8,252-255\nmlx5_0\tSYS\t X \t\t\n", "m.txt"
    )
    assert topology.gpus[0].numa_node is None
    assert any("0,8,252-255" in warning for warning in topology.warnings)


@pytest.mark.parametrize("said", ["$ nvidia-smi topo -mp\n", ""])
def test_a_matrix_of_pcie_paths_says_nothing_of_nvlink(said: str) -> None:
    legend = "" if said else "\nLegend:\n\n  X    = Self\n  PIX  = Connection traversing at most a single PCIe bridge\n"
    table = "\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\nGPU0\t X \tPIX\tPIX\t0-19\nGPU1\tPIX\t X \tPIX\t0-19\n"
    topology = parse_matrix(said + table + legend, "m.txt")
    assert [gpu.nvlink for gpu in topology.gpus] == [None, None]
    assert topology.levels == {(0, "mlx5_0"): "PIX", (1, "mlx5_0"): "PIX"}


@pytest.mark.parametrize("form", ["rank labels", "kubectl --prefix"])
def test_a_log_that_begins_like_json(tmp_path: Path, form: str) -> None:
    (tmp_path / "m.log").write_text(FORMS[form])
    expect_clean(load(str(tmp_path / "m.log")))
    (tmp_path / "m.json").write_text(json.dumps({"log": CLEAN, "stream": "stdout"}))
    expect_clean(load(str(tmp_path / "m.json")))


def test_a_range_of_nodes_is_no_node() -> None:
    topology = parse_matrix("\tGPU0\tNIC0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tPHB\t0-63\t0-1\n", "m.txt")
    assert topology.gpus[0].numa_node is None
    assert any("0-1" in warning for warning in topology.warnings)


def test_drivers_of_old_call_nics_by_name_and_sys_soc(data: Path) -> None:
    topology = load(str(data / "old-driver-names.txt"))
    assert [hca.name for hca in topology.hcas] == ["mlx5_0", "mlx5_1"]
    assert topology.levels == {(0, "mlx5_0"): "PIX", (0, "mlx5_1"): "SYS", (1, "mlx5_0"): "SYS", (1, "mlx5_1"): "PHB"}


def test_prompt_table_colour_and_glue_at_once(data: Path) -> None:
    topology = load(str(data / "ansi-glued-prompt.txt"))
    assert [gpu.numa_node for gpu in topology.gpus] == [0, 1]
    assert [hca.name for hca in topology.hcas] == ["mlx5_0", "mlx5_1", "roceP2p1s0f0"]
    assert topology.levels[1, "NIC2"] == "PXB"


def test_rocm_smi_tables_give_nodes_and_links() -> None:
    head = "=========== Weight between two GPUs ===========\n       GPU0         GPU1\nGPU0   0            15\nGPU1   15           0\n"
    links = "=========== Link Type between two GPUs ========\n       GPU0         GPU1\nGPU0   0            XGMI\nGPU1   XGMI         0\n"
    nodes = "GPU[0]\t\t: (Topology) Numa Node: 3\nGPU[0]\t\t: (Topology) Numa Affinity: 3\nGPU[1]\t\t: (Topology) Numa Node: -1\n"
    topology = parse_matrix(head + links + nodes, "m.txt")
    assert [gpu.numa_node for gpu in topology.gpus] == [3, None]
    assert [gpu.nvlink for gpu in topology.gpus] == [(1,), (0,)]


def test_sixteen_gpus_and_double_digit_nics() -> None:
    names = [*(f"GPU{i}" for i in range(16)), *(f"NIC{i}" for i in range(12))]
    lines = ["\t" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity"]
    for name in names[:16]:
        number = int(name[3:])
        cells = [
            " X " if other == name else "NV6" if other.startswith("GPU") else "PIX" if int(other[3:]) == number else "SYS"
            for other in names
        ]
        lines.append("\t".join([name, *cells, "0-23", str(number // 8)]))
    topology = parse_matrix("\n".join(lines), "m.txt")
    assert len(topology.gpus) == 16
    assert [hca.label for hca in topology.hcas] == [f"NIC{i}" for i in range(12)]
    assert topology.levels[11, "NIC11"] == "PIX"


def test_order_of_rows_and_columns_does_not_matter() -> None:
    lines = CLEAN.splitlines()
    rows = [line.split("\t") for line in lines[1:9]]
    expected = parse_matrix(CLEAN, "m.txt")
    random.seed(5)
    for _ in range(20):
        order = random.sample(range(1, 9), 8)
        names = [lines[0].split("\t")[i] for i in order]
        shuffled = ["\t" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"]
        for row in random.sample(rows, 8):
            shuffled.append("\t".join([row[0], *(row[i] for i in order), *row[9:]]))
        topology = parse_matrix("\n".join([*shuffled, *lines[9:]]), "m.txt")
        assert topology.levels == expected.levels
        assert topology.gpus == expected.gpus


@pytest.mark.parametrize(
    "text",
    [
        "GPU0 GPU1 NIC0 CPU Affinity\n",
        "\tGPU0\tGPU1\n\nLegend:\n  X = Self\n",
        "GPU0 is hot\n",
        "\tGPU0\tGPU1\nGPU0\tNV1\tX\nGPU1\tX\tNV1\n",
    ],
)
def test_no_usable_row_is_an_error_with_a_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"m\.txt:1"):
        parse_matrix(text, "m.txt")


def test_renaming_nics_changes_names_only() -> None:
    for names in itertools.islice(itertools.permutations(NAMES), 6):
        text = CLEAN[: CLEAN.index("  NIC0:")] + "".join(f"  NIC{i}: {name}\n" for i, name in enumerate(names))
        topology = parse_matrix(text, "m.txt")
        assert [hca.name for hca in topology.hcas] == list(names)
        assert topology.levels == parse_matrix(CLEAN, "m.txt").levels
