"""One host as a Topology: `load` reads any source, `path_level` tells how near an HCA is to a GPU."""

from entrypoints.topology.load import load
from entrypoints.topology.model import path_level

__all__ = ["load", "path_level"]
