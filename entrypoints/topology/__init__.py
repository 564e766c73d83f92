"""One host as a Topology: `load` reads any source, `path_level` tells how near an HCA is to a GPU."""

from entrypoints.topology.levels import path_level
from entrypoints.topology.load import load

__all__ = ["load", "path_level"]
