"""JSON Schema (2020-12) of result.json, epbox.result/1: of a whole bench, and of `results LOG` which holds runs alone."""

from typing import Any

SCHEMA_ID = "epbox.result/1"

_NUMBER = {"type": "number", "minimum": 0}
_NUMBER_OR_NULL = {"type": ["number", "null"], "minimum": 0}
_INTEGER_OR_NULL = {"type": ["integer", "null"]}
_TEXT_OR_NULL = {"type": ["string", "null"]}

BEST: dict[str, Any] = {
    "type": "object",
    "required": ["op", "dtype", "sms", "nvl_chunk", "rdma_chunk", "rdma_gbps", "nvl_gbps", "transmit_us", "notify_us"],
    "properties": {
        "op": {"enum": ["dispatch", "combine"]},
        "dtype": {"enum": ["fp8", "bf16", "int8", None]},
        "sms": _INTEGER_OR_NULL,
        "nvl_chunk": {"type": ["integer", "string", "null"]},
        "rdma_chunk": _INTEGER_OR_NULL,
        "rdma_gbps": _NUMBER_OR_NULL,
        "nvl_gbps": _NUMBER_OR_NULL,
        "transmit_us": _NUMBER_OR_NULL,
        "notify_us": _NUMBER_OR_NULL,
        "us": {
            "type": "object",
            "required": ["median", "p25", "p75", "min", "max", "repeats"],
            "additionalProperties": _NUMBER,
        },
    },
}

RUN: dict[str, Any] = {
    "type": "object",
    "required": ["test", "format", "best", "complete"],
    "properties": {
        "test": {"type": "string", "pattern": "^(internode|intranode|low_latency|elastic_[a-z]+|alltoall)$"},
        "format": _TEXT_OR_NULL,
        "best": {"type": "array", "items": BEST},
        "tuning_lines": {"type": "integer", "minimum": 0},
        "passed_cases": {"type": "integer", "minimum": 0},
        "complete": {"type": "boolean"},
        "arm": {"type": "string"},
        "bind": {"type": "string"},
    },
}

RANK: dict[str, Any] = {
    "type": "object",
    "required": ["rank", "local_rank", "exit_code", "evidence"],
    "properties": {
        "rank": {"type": "integer", "minimum": 0},
        "local_rank": {"type": "integer", "minimum": 0},
        "exit_code": _INTEGER_OR_NULL,
        "signal": _INTEGER_OR_NULL,
        "seconds": _NUMBER,
        "evidence": {"type": "object"},
    },
}

NODE: dict[str, Any] = {
    "type": "object",
    "required": ["node_rank", "hostname", "plan", "ranks", "doctor"],
    "properties": {
        "node_rank": {"type": "integer", "minimum": 0},
        "hostname": {"type": "string"},
        "plan": {"type": "object", "required": ["schema", "ranks"], "properties": {"schema": {"const": "epbox.plan/1"}}},
        "ranks": {"type": "array", "items": RANK},
        "doctor": {
            "type": ["object", "null"],
            "required": ["counts", "failed", "checks"],
            "properties": {"failed": {"type": "array", "items": {"type": "string"}}},
        },
        "exit_code": {"type": "integer"},
        "cause": {"type": "string"},
        "launches": {"type": "array", "items": {"type": "object", "required": ["bind", "exit_code", "seconds"]}},
    },
}

SUMMARY: dict[str, Any] = {
    "type": "object",
    "required": ["op", "dtype", "direction", "median_gbps", "min_gbps", "max_gbps", "runs"],
    "properties": {"direction": {"enum": ["RDMA", "NVL", "total"]}, "median_gbps": _NUMBER, "runs": {"type": "integer", "minimum": 1}},
}

ABLATION: dict[str, Any] = {
    "type": "object",
    "required": ["arm", "op", "dtype", "median_gbps", "low_gbps", "high_gbps", "runs", "change", "noise"],
    "properties": {"change": {"type": ["number", "null"]}, "noise": {"type": ["boolean", "null"]}},
}

BASELINE: dict[str, Any] = {
    "type": "object",
    "required": ["workload", "rows", "compared"],
    "properties": {
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["op", "dtype", "direction", "value", "baseline", "ratio", "ratio_min", "ratio_max", "runs"],
                "properties": {"direction": {"enum": ["RDMA", "NVL", "us"]}, "ratio": _NUMBER, "runs": {"type": "integer", "minimum": 1}},
            },
        },
        "compared": {"type": "string", "minLength": 1},
    },
}

#: What bench writes.
BENCH: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:epbox.result:1",
    "title": "EPBox bench result",
    "type": "object",
    "required": [
        "schema",
        "created",
        "workload",
        "status",
        "exit_code",
        "verdict",
        "shape",
        "runs",
        "correctness",
        "nodes",
        "engine",
        "image",
        "versions",
    ],
    "properties": {
        "schema": {"const": SCHEMA_ID},
        "created": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "workload": {"type": "string"},
        "status": {"enum": ["ok", "failed"]},
        "exit_code": {"type": "integer", "minimum": 0, "maximum": 255},
        "verdict": {"type": "string", "minLength": 1},
        "shape": {
            "type": "object",
            "required": ["nodes", "ranks_per_node"],
            "additionalProperties": _INTEGER_OR_NULL,
        },
        "runs": {"type": "array", "items": RUN},
        "summary": {"type": "array", "items": SUMMARY},
        "ablation": {"type": "array", "items": ABLATION},
        "baseline": BASELINE,
        "correctness": {"type": "object", "required": ["passed"], "properties": {"passed": {"type": "boolean"}}},
        "nodes": {"type": "array", "minItems": 1, "items": NODE},
        "engine": {"type": "string"},
        "image": {
            "type": ["object", "null"],
            "required": ["name", "id", "recipe", "lock"],
            "properties": dict.fromkeys(("name", "id", "recipe", "lock"), _TEXT_OR_NULL),
        },
        "versions": {"type": "object", "required": ["epbox", "python"], "additionalProperties": {"type": "string"}},
    },
    # A right result has measured something or says by its test that it prints none; a failed one says why.
    "allOf": [
        {
            "if": {"properties": {"status": {"const": "ok"}}},
            "then": {
                "properties": {"exit_code": {"const": 0}, "correctness": {"properties": {"passed": {"const": True}}}},
            },
            "else": {"properties": {"exit_code": {"not": {"const": 0}}}},
        }
    ],
}

#: What `results LOG` prints: the runs alone.
RUNS: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["schema", "runs"],
    "properties": {"schema": {"const": SCHEMA_ID}, "runs": {"type": "array", "items": RUN}},
}
