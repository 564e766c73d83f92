"""Runs the supervisor in a process of its own, from a JSON description; prints the outcome as JSON on stdout."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from entrypoints.binding import BindMode
from entrypoints.errors import EPBoxError
from entrypoints.launch import rank as rank_program
from entrypoints.launch.model import LaunchOptions, RankCommand
from entrypoints.launch.supervisor import run
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.nodes.session import Session
from entrypoints.placement.model import MemoryPolicy, RankPlan
from entrypoints.results.codec import encode


def peak_rss_mib() -> float:
    """VmHWM of this program; ru_maxrss would count the parent's size too, which a child has until it execs."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main() -> int:
    asked = json.loads(sys.argv[1])
    plans = [
        RankPlan(i, cpus=(sorted(os.sched_getaffinity(0))[0],), memory=MemoryPolicy("preferred", (0,)), hca=asked.get("hca"), port=1)
        for i in range(asked.get("ranks", 2))
    ]
    first = asked.get("node_rank", 0) * len(plans)
    argv = tuple(asked["argv"])
    if asked.get("script"):
        argv = rank_program.script_command(argv[0], argv[1:])
    commands = [RankCommand(plan, argv, asked.get("env", {}), first + plan.local_rank) for plan in plans]
    options = LaunchOptions(
        log_dir=Path(asked["log_dir"]) if asked.get("log_dir") else None,
        bind=BindMode.parse(asked.get("bind", "all")),
        sysfs=Path(asked.get("sysfs", "/sys")),
        **asked.get("options", {}),
    )
    everyone: list[dict[str, int]] = []
    try:
        with Session(Rendezvous(asked.get("node_rank", 0), asked.get("nodes", 1), "localhost", asked.get("port", 0))) as session:
            session.open({"hostname": f"host{first}"}, asked.get("meet_s", 30), list)
            if asked.get("nodes", 1) > 1:
                options = replace(options, session=session)
            outcome = run(commands, options)
            if outcome.exit_code == 0:
                everyone = session.gather({"ranks": len(outcome.ranks)}, 30, list)
    except EPBoxError as error:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    found = {
        "exit_code": outcome.exit_code,
        "cause": outcome.cause,
        "ranks": [encode(rank.record) | {"stacks": rank.stacks, "pid": rank.pid} for rank in outcome.ranks],
        "everyone": everyone,
        "rss_mib": peak_rss_mib(),
    }
    print(json.dumps(found), flush=True)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
