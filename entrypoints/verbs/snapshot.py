"""`epbox snapshot OUT`: what a plan needs of this host in one file, without anything that identifies it."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.output import emit_json, say, write_atomically
from entrypoints.parser import add_format_option
from entrypoints.topology import load
from entrypoints.topology.load import root_below
from entrypoints.topology.model import Gpu, Hca, Topology
from entrypoints.topology.snapshot import take
from entrypoints.topology.tree import is_folder


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="the tarball to write, for example host.tar.gz")
    parser.add_argument("--root", metavar="DIR", help="take it of this sysfs root instead of the live host")
    add_format_option(parser, "table", "json")


def run(arguments: Namespace) -> int:
    if arguments.root is None:
        data, topology = take("/", live=True)
    elif is_folder(arguments.root):
        data, topology = take(root_below(arguments.root))
    else:
        raise UsageError("is not a folder", where=arguments.root, hint="give a sysfs root: a folder with sys/ and proc/ in it")
    try:
        write_atomically(Path(arguments.out), data)
    except OSError as error:
        raise UsageError(error.strerror or str(error), where=arguments.out, hint="choose another place for the snapshot") from None
    # The file is worth nothing when it does not replay to the same host: say so now, not in the bug report.
    same = comparable(load(arguments.out)) == comparable(topology)
    counts = {"gpus": len(topology.gpus), "hcas": len(topology.hcas), "numa_nodes": len(topology.numa_nodes), "cpus": len(topology.cpus)}
    if arguments.format == "json":
        emit_json({"schema": "epbox.snapshot/1", "file": arguments.out, "bytes": len(data), **counts, "replays": same})
    say(f"wrote {arguments.out}: {len(data)} bytes, " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    if not same:
        say("warning: the snapshot does not replay to the same topology as this host; please report it together with the file")
    return 0


def comparable(topology: Topology) -> Topology:
    """The part of a Topology that a snapshot keeps: all but names of the host and of the hardware's identities."""

    def gpu(gpu: Gpu) -> Gpu:
        return replace(gpu, uuid=None)

    def hca(hca: Hca) -> Hca:
        ports = tuple(replace(port, netdev=None, gids=tuple(replace(gid, gid="", netdev=None) for gid in port.gids)) for port in hca.ports)
        return replace(hca, card=cards[hca.card], ports=ports)

    cards = {card: str(i) for i, card in enumerate(dict.fromkeys(hca.card for hca in topology.hcas))}
    return replace(
        topology, source="", hostname=None, warnings=(), gpus=tuple(map(gpu, topology.gpus)), hcas=tuple(map(hca, topology.hcas))
    )
