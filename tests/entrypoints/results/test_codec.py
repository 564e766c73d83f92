"""Results are read as they are written, bounded, and what is wrong in one is named by its place."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.errors import UsageError
from entrypoints.results import codec
from entrypoints.results.codec import BENCH, decode, encode, parse_json, read_result
from entrypoints.results.model import Best, Result, Run, Shape
from entrypoints.results.ranks import Evidence

DATA = Path(__file__).resolve().parents[2] / "data" / "gpu"
RECORDED = ["alltoall-ablation", "low-latency-baseline"]


def recorded(name: str = RECORDED[0]) -> dict[str, Any]:
    return dict(json.loads((DATA / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_result_is_written_as_it_was_read(name: str) -> None:
    result = read_result(DATA / f"{name}.json")
    assert json.dumps(encode(result), sort_keys=True) == json.dumps(recorded(name), sort_keys=True)
    jsonschema.validate(encode(result), BENCH)


def test_keys_that_this_version_does_not_know_are_kept() -> None:
    document = recorded()
    document |= {"later": {"deep": [1, None, "x"]}}
    document["runs"][0]["best"][0] |= {"hops": 3, "time_us": None}
    result = decode(Result, document)
    assert result.extra == {"later": {"deep": [1, None, "x"]}}
    assert encode(result) == document


def test_absent_and_null_are_told_apart() -> None:
    absent, null = {"op": "combine"}, {"op": "combine", "time_us": None}
    assert decode(Best, absent).time_us is decode(Best, null).time_us is None
    assert "time_us" not in encode(decode(Best, absent))
    assert encode(decode(Best, null))["time_us"] is None
    assert encode(decode(Best, absent))["dtype"] is None, "always written"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("runs", 0, "best", 0, "nvl_gbps"), "149.8", "$.runs[0].best[0].nvl_gbps: expected float, got str"),
        (("runs", 0, "best", 0, "nvl_chunk"), 1.5, "$.runs[0].best[0].nvl_chunk: expected int or str, got float"),
        (("runs", 0, "best"), {}, "$.runs[0].best: expected list, got object"),
        (("runs", 0, "complete"), 1, "$.runs[0].complete: expected bool, got int"),
        (("nodes", 0, "exit_code"), True, "$.nodes[0].exit_code: expected int, got bool"),
        (("nodes", 0), None, "$.nodes[0]: expected object, got null"),
        (("verdict",), None, "$.verdict: expected str, got null"),
        (
            ("nodes", 0, "ranks", 0, "evidence", "memory_bytes", "0"),
            "x",
            "$.nodes[0].ranks[0].evidence.memory_bytes.0: expected int, got str",
        ),
        (("later",), float("nan"), "$.later: nan is not a number"),
        (("runs", 0, "best", 0, "nvl_gbps"), float("-inf"), "$.runs[0].best[0].nvl_gbps: -inf is not a number"),
        (("exit_code",), 1 << 70, "$.exit_code: an integer of more than 64 bits"),
    ],
)
def test_an_error_names_the_place(path: tuple[Any, ...], value: Any, message: str) -> None:
    document: Any = recorded()
    *way, last = path
    part = document
    for key in way:
        part = part[key]
    part[last] = value
    with pytest.raises(UsageError, match=re.escape(f"result.json: {message}")):
        decode(Result, document, "result.json")


def test_a_missing_key_is_named() -> None:
    document = recorded()
    del document["nodes"][0]["hostname"]
    with pytest.raises(UsageError, match=r"^\$\.nodes\[0\]\.hostname: missing$"):
        decode(Result, document)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1' + "0" * 5000 + "}", '{"a": ', "[" * 100_000, "", '{"a": "\\ud8"}', "\xff"],
)
def test_what_is_not_sound_json_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^x\.json: invalid JSON, perhaps truncated: ") as caught:
        parse_json(text.encode("latin-1"), "x.json")
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_size_and_depth_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(codec.MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(UsageError, match="nested deeper than 64"):
        decode(Run, {"test": "x", "extra_key": deep})
    monkeypatch.setattr(codec, "MAX_BYTES", 10)
    (tmp_path / "result.json").write_text('{"runs": [1, 2, 3]}')
    with pytest.raises(UsageError, match="at most 10 are read"):
        read_result(tmp_path / "result.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_result(tmp_path / "none.json")


def test_text_cannot_steer_a_terminal() -> None:
    run = decode(Run, {"test": "a\x1b[2Jb", "missing": ["\ud800", "tab\tand\nline"], "x\x07": {"y\x1b": "\x9b"}})
    assert run.test == "a\ufffd[2Jb"
    assert run.missing == ("\ufffd", "tab\tand\nline")
    assert run.extra == {"x\ufffd": {"y\ufffd": "\ufffd"}}
    json.dumps(encode(run), ensure_ascii=False).encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["test", "best", "shape", "arm", "complete", "missing", "low_latency", "other"]), JSON))
def test_any_json_is_decoded_or_refused_in_one_line(value: dict[str, Any]) -> None:
    try:
        run = decode(Run, value)
    except UsageError as error:
        assert str(error).startswith("$")
    else:
        assert decode(Run, encode(run)) == run


def test_a_shape_is_filled_from_another() -> None:
    run, job = Shape(nodes=None, num_tokens=128, extra={"sms": 24}), Shape(nodes=2, num_tokens=4096, hidden=7168, extra={"warmup": 3})
    assert run.filled(job).sizes() == {"nodes": 2, "num_tokens": 128, "hidden": 7168, "warmup": 3, "sms": 24}


def test_integers_stay_integers() -> None:
    assert encode(decode(Evidence, {"memory_bytes": {"0": 2**63}}))["memory_bytes"] == {"0": 2**63}
    assert json.dumps(encode(decode(Best, {"op": "combine", "nvl_gbps": 45}))["nvl_gbps"]) == "45"


def test_the_schema_is_the_models() -> None:
    best = BENCH["properties"]["runs"]["items"]["properties"]["best"]["items"]
    assert best["properties"]["nvl_gbps"] == {"type": ["number", "null"]}
    assert best["properties"]["op"] == {"type": "string", "enum": ["dispatch", "combine"]}
    assert best["properties"]["nvl_chunk"] == {"type": ["integer", "string", "null"]}
    assert best["required"][:2] == ["op", "dtype"] and "time_us" not in best["required"]
    assert BENCH["properties"]["why"] == {"type": "string"}
    assert not jsonschema.Draft202012Validator(BENCH).is_valid({**recorded(), "nodes": []})
    jsonschema.Draft202012Validator.check_schema(BENCH)
