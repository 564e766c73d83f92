"""`epbox topology`: one host as a table, JSON, a drawing, or a file for NCCL_TOPO_FILE."""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from entrypoints.drawing.topology import draw
from entrypoints.errors import EPBoxError, UsageError
from entrypoints.output import say, write_atomically
from entrypoints.parser import add_format_option, add_topology_option
from entrypoints.placement.model import Plan
from entrypoints.placement.plan import make_plan
from entrypoints.topology import load
from entrypoints.topology.document import to_document
from entrypoints.topology.model import Topology
from entrypoints.topology.nccl_xml import to_nccl_xml
from entrypoints.topology.tables import describe


def configure(parser: ArgumentParser) -> None:
    add_topology_option(parser)
    add_format_option(parser, "table", "json", "svg", "nccl-xml")
    parser.add_argument("--output", "-o", metavar="OUT", help="write to this file instead of standard output")


def run(arguments: Namespace) -> int:
    topology = load(arguments.topology)
    for warning in topology.warnings:
        say(f"warning: {warning}")
    text = _text(topology, arguments.format)
    if not arguments.output:
        sys.stdout.write(text)
        return 0
    try:
        write_atomically(Path(arguments.output), text)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=arguments.output, hint="choose another place with -o") from None
    return 0


def _text(topology: Topology, form: str) -> str:
    if form == "json":
        return json.dumps(to_document(topology), indent=2) + "\n"
    if form == "svg":
        return draw(topology, _plan(topology))
    if form == "nccl-xml":
        return to_nccl_xml(topology)
    return describe(topology) + "\n"


def _plan(topology: Topology) -> Plan | None:
    """The plan to draw in; None for a host for which none is possible."""
    try:
        return make_plan(topology)
    except EPBoxError as error:
        say(f"note: drawn without a plan: {error}")
        return None
