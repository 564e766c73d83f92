"""bench: run a workload bound by the plan, supervised, and leave a result that can be compared."""

from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    from entrypoints.bench import options

    options.configure(parser)


def run(args: Namespace) -> int:
    from entrypoints.bench import termination
    from entrypoints.bench.flow import bench
    from entrypoints.errors import EPBoxError

    try:
        return bench(args)
    except EPBoxError as error:
        termination.leave(f"epbox bench: {error}")
        raise
