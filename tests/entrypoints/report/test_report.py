"""The page: well formed, escaped, every figure found again in result.json; errors are one line and exit 2."""

import gzip
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from entrypoints.__main__ import main
from tests.helpers.golden import expected

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[tuple[str, str]] = []
        self._source: list[str | None] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self._source.append(dict(attrs).get("data-source"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        self._source.pop()

    def handle_data(self, data: str) -> None:
        if self._source and self._source[-1]:
            self.figures.append((self._source[-1], data))


def page(folder: Path) -> tuple[str, Page]:
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    return text, Page(text)


def resolve(document: Any, path: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", path):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def test_every_section_is_there_and_closed(folder: Path) -> None:
    _, parsed = page(folder)
    assert not parsed.open
    found = {attrs["id"] for tag, attrs in parsed.tags if tag == "section"}
    assert found == {"best", "references", "wire", "ablation", "ranks", "sweep", "topology", "evidence", "doctor", "environment", "logs"}


def test_every_figure_is_the_one_in_the_result(folder: Path) -> None:
    _, parsed = page(folder)
    document = json.loads((folder / "result.json").read_text())
    seen = 0
    for source, text in parsed.figures:
        origin, _, path = source.partition("#")
        shown = re.search(r"-?\d[\d.]*", text)
        if origin not in ("result.json", "this page") or path == "verdict" or not shown:
            continue
        value = resolve(document, path) * (100 if path.endswith(("share", "change")) else 1) / (2**20 if "memory_bytes" in path else 1)
        digits = len(shown[0].partition(".")[2])
        assert float(shown[0]) == pytest.approx(value, abs=0.51 * 10**-digits, rel=0.005), source
        seen += 1
    assert seen > 25


#: Columns that number things and measure nothing.
NAMES = {"run", "rank", "node", "local rank"}


def test_no_figure_in_a_table_is_without_its_origin(folder: Path) -> None:
    text, _ = page(folder)
    seen = 0
    for found in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        heads = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", found)
        for row in re.findall(r"<tr>(.*?)</tr>", found.partition("</thead>")[2], re.DOTALL):
            for head, kind, cell in zip(heads, *zip(*re.findall(r"<td([^>]*)>(.*?)</td>", row, re.DOTALL), strict=True), strict=True):
                if 'class="n"' in kind and re.search(r"\d", cell) and head not in NAMES:
                    assert "data-source=" in cell, (head, cell)
                    seen += 1
    assert seen > 20


def test_nothing_of_a_result_or_log_becomes_markup(folder: Path) -> None:
    text, parsed = page(folder)
    assert "<script>alert" not in text
    assert [attrs for tag, attrs in parsed.tags if tag == "script"] == [{"type": "application/json", "id": "result"}]
    island = re.search(r'id="result">(.*?)</script>', text)
    assert island and json.loads(island[1]) == json.loads((folder / "result.json").read_text())


def test_nothing_is_fetched(folder: Path) -> None:
    _, parsed = page(folder)
    for tag, attrs in parsed.tags:
        for key in ("src", "href"):
            assert (attrs.get(key) or "data:").startswith("data:"), (tag, attrs)


def test_a_baseline_gives_a_ratio_only_for_the_same_shape(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = json.loads((folder / "result.json").read_text())
    other["runs"][0] |= {"test": "alltoall", "backend": "nccl", "arm": "none of ours"}
    other["runs"][0]["best"][1]["rdma_gbps"] = 30.625
    base = tmp_path / "base.json"
    base.write_text(json.dumps(other))
    target = tmp_path / "out.html"
    assert main(["report", str(folder), "--baseline", str(base), "-o", str(target)]) == 0
    assert ">2.00<" in target.read_text()
    assert main(["report", str(folder), "--baseline", str(base), "--format", "markdown"]) == 0
    assert "| combine | GB/s (RDMA) | 61.25 | 30.62 | 2.00 | - | 1 |" in capsys.readouterr().out
    other["runs"][0]["shape"]["num_tokens"] = 128
    base.write_text(json.dumps(other))
    assert main(["report", str(folder), "--baseline", str(base), "-o", str(target)]) == 0
    assert ">2.00<" not in target.read_text() and "num_tokens 4096 and 128" in target.read_text()
    other["runs"][0]["test"] = "internode"
    base.write_text(json.dumps(other))
    assert main(["report", str(folder), "--baseline", str(base), "-o", str(target)]) == 2
    assert "holds no all-to-all" in capsys.readouterr().err


def test_the_baseline_of_the_same_run_is_shown_with_its_range(folder: Path) -> None:
    document = json.loads((folder / "result.json").read_text())
    row = {"op": "combine", "dtype": None, "direction": "RDMA", "value": 61.25, "baseline": 20.0, "ratio": 3.0625}
    rows = [{**row, "ratio_min": 2.9, "ratio_max": 3.2, "runs": 3}]
    document["baseline"] = {"workload": "alltoall", "backend": "nccl", "rows": rows, "compared": "Both: the same."}
    (folder / "result.json").write_text(json.dumps(document))
    text, parsed = page(folder)
    assert "Both: the same." in text
    shown = {source: text for source, text in parsed.figures if "#baseline" in source}
    figures = {"value": "61.25", "baseline": "20.00", "ratio": "3.06", "ratio_min": "2.90", "ratio_max": "3.20", "runs": "3"}
    assert shown == {f"result.json#baseline.rows[0].{key}": value for key, value in figures.items()}


@pytest.mark.parametrize("text", ["", "{", '{"schema": "epbox.result/1", "runs": [', "[]", '{"schema": "epbox.result/1"}', "\x00"])
@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_torn_result_is_one_error(text: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_text(text)
    assert main(["report", str(tmp_path), "--format", form]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("key", ["runs", "nodes"])
def test_wrong_kinds_inside_are_one_error(key: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((folder / "result.json").read_text())
    document[key] = [3]
    (folder / "result.json").write_text(json.dumps(document))
    assert main(["report", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("plan", [{}, {"ranks": [3]}, {"ranks": [{"local_rank": 0, "cpus": "x-y"}]}, {"ranks": [{"env": "A=1"}]}])
def test_a_plan_of_another_form_is_a_note(plan: dict[str, Any], folder: Path) -> None:
    document = json.loads((folder / "result.json").read_text())
    document["nodes"][0]["plan"] = plan
    (folder / "result.json").write_text(json.dumps(document))
    text, _ = page(folder)
    assert "no plan: not the form that bench writes" in text and "61.25" in text


def test_of_a_long_log_both_ends_are_shown_packed_or_not(folder: Path) -> None:
    lines = "".join(f"line {number}, nothing of note\n" for number in range(10_000)).encode()
    (folder / "long.log").write_bytes(lines)
    (folder / "packed.log.gz").write_bytes(gzip.compress(lines))
    (folder / "torn.log.gz").write_bytes(gzip.compress(lines)[:2000])
    text, _ = page(folder)
    assert text.count("line 0, nothing") == text.count("line 9999, nothing") == 2 and "line 5000, nothing" not in text
    assert text.count(f"[... {len(lines) - 48 * 1024} bytes left out ...]") == 2
    assert "Empty: torn.log.gz." in text


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["--history", "nowhere.jsonl"]])
def test_nothing_to_show_is_a_usage_error(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2


def test_a_world_of_8000_ranks_stays_readable(folder: Path) -> None:
    document = json.loads((folder / "result.json").read_text())
    node = document["nodes"][0]
    document["nodes"] = [{**node, "node_rank": i, "ranks": node["ranks"] * 4} for i in range(1000)]
    low = document["runs"][0]["low_latency"]
    document["runs"][0]["low_latency"] = [{**low[0], "rank": i} for i in range(8000)]
    (folder / "result.json").write_text(json.dumps(document))
    start = time.process_time()
    text, _ = page(folder)
    assert time.process_time() - start < 5
    assert len(text) < 400_000 and "8000 ranks" in text


def test_markdown_is_what_was_agreed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert text == expected(Path(__file__).parents[2] / "golden/report/summary.md", text)


def test_history_marks_a_regression(tmp_path: Path) -> None:
    row = {"op": "combine", "dtype": None, "direction": "NVL", "runs": 1}
    lines = [
        {"created": f"2026-01-0{i + 1}", "workload": "alltoall", "status": "ok", "shape": {}, "bind": "all", "result": f"{i}/result.json",
         "summary": [{**row, "median_gbps": gbps}]}
        for i, gbps in enumerate([10.0, 10.1, 9.9, 7.0])
    ]  # fmt: skip
    index = tmp_path / "index.jsonl"
    index.write_text("\n".join(map(json.dumps, lines)))
    assert main(["report", "--history", str(index)]) == 0
    parsed = Page((tmp_path / "history.html").read_text())
    assert [attrs["class"] for tag, attrs in parsed.tags if tag == "circle"] == ["dot", "dot", "dot", "bad"]
