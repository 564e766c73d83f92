"""The page in a real browser: quiet, fetching nothing, no wider than the screen, readable in light, dark and print."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.__main__ import main
from tests.helpers import chromium, tools

tools.need("chromium", whole_module=True)
pytestmark = pytest.mark.slow
#: Contrast that WCAG 2 asks of text.
READABLE = 4.5

#: Text in a cell of the heat map against what lies behind it, worst of the page; colours are mixed as the browser does.
CONTRAST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const page = parse(getComputedStyle(document.body).backgroundColor);
  const light = rgb => { const [r, g, b] = rgb.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05); };
  const found = [];
  for (const cell of document.querySelectorAll('.cell')) {
    const fill = parse(getComputedStyle(cell).fill), share = Number(cell.getAttribute('fill-opacity'));
    const behind = fill.slice(0, 3).map((v, i) => v * share + page[i] * (1 - share));
    found.push(contrast(parse(getComputedStyle(cell.nextElementSibling).fill).slice(0, 3), behind));
  }
  for (const text of document.querySelectorAll('.soft,.ok,.off,.warn,th')) {
    found.push(contrast(parse(getComputedStyle(text).color).slice(0, 3), page.slice(0, 3)));
  }
  return Math.min(...found);
})()"""

#: Chart texts that reach out of their drawing, and texts that lie on each other.
CLIPPED = """(() => {
  const bad = [];
  for (const chart of document.querySelectorAll('svg.chart')) {
    const box = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll('text')) {
      const at = text.getBoundingClientRect();
      if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)
        bad.push(text.textContent);
    }
  }
  return bad;
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def url(folder: Path) -> str:
    document = json.loads((folder / "result.json").read_text())
    # A long host name, a long verdict and 16 ranks: what makes pages too wide.
    document["nodes"][0]["hostname"] = "gpu-worker-" + "0123456789" * 6 + ".cluster.local"
    document["verdict"] += "; " + "x" * 120
    document["nodes"][0]["ranks"] *= 8
    row = {"op": "combine", "dtype": None, "direction": "RDMA", "value": 61.25, "baseline": 20.0, "ratio": 3.0625}
    rows = [{**row, "ratio_min": 2.9, "ratio_max": 3.2, "runs": 3}]
    document["baseline"] = {"workload": "alltoall", "backend": "nccl", "rows": rows, "compared": "Both: 4096 tokens."}
    (folder / "result.json").write_text(json.dumps(document))
    assert main(["report", str(folder)]) == 0
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_is_quiet_fits_and_can_be_read(tab: chromium.Browser, url: str, width: int, dark: bool) -> None:
    tab.open(url, width, dark)
    assert tab.complaints() == []
    assert [request for request in tab.requests() if not request.startswith("data:")] == [url]
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.value(CLIPPED) == []
    assert tab.value(CONTRAST) >= READABLE
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 60) == dark
    picture = tab.screenshot()
    assert picture.startswith(b"\x89PNG") and int.from_bytes(picture[16:20], "big") <= width


def test_the_best_figures_are_in_sight_on_a_phone(tab: chromium.Browser, url: str) -> None:
    tab.open(url, 400)
    right = tab.value(
        "Math.max(...[...document.querySelectorAll('#best td:nth-child(-n+3)')].map(cell => cell.getBoundingClientRect().right))"
    )
    assert right <= 400


def test_print_is_light_and_without_logs(tab: chromium.Browser, url: str) -> None:
    tab.open(url, 1400, dark=True)
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.value("getComputedStyle(document.getElementById('logs')).display") == "none"
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    assert tab.pdf().startswith(b"%PDF")


def test_the_history_page_too(tab: chromium.Browser, tmp_path: Path) -> None:
    row = {"op": "combine", "dtype": None, "direction": "NVL", "runs": 1}
    lines = [
        {"created": f"2026-01-{day + 1:02}T00:00:00Z", "workload": "alltoall", "status": "ok", "shape": {"nodes": 2, "ranks_per_node": 8},
         "bind": "all", "result": f"{day}/result.json", "summary": [{**row, "median_gbps": 10.0 - 4 * (day == 20)}]}
        for day in range(28)
    ]  # fmt: skip
    index = tmp_path / "index.jsonl"
    index.write_text("\n".join(map(json.dumps, lines)))
    assert main(["report", str(index)]) == 0
    for width in (1400, 400):
        tab.open((tmp_path / "history.html").as_uri(), width)
        assert tab.complaints() == []
        assert tab.value("document.documentElement.scrollWidth") <= width
        assert tab.value(CLIPPED) == []
