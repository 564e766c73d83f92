"""bench: run a workload bound by the plan, supervised, and leave a result that can be compared."""

from argparse import Namespace

from entrypoints.bench import flow
from entrypoints.bench.setup import configure
from entrypoints.errors import EPBoxError
from entrypoints.output import leave_message

__all__ = ["configure", "run"]


def run(args: Namespace) -> int:
    try:
        return flow.bench(args)
    except EPBoxError as error:
        leave_message(f"epbox bench: {error}")
        raise
