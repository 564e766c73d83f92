"""Start N supervised, bound ranks of a DeepEP test on one GPU, which `bench` refuses: its plan is one rank a GPU.

`python launch_shared.py --ranks N --out DIR [--plain] [--split-hosts] [--private-pids equal|distinct] TEST [ARGUMENTS]`.
The plan is the host's without its GPUs (CPUs and memory split among ranks); launcher, binding and evidence are EPBox's own.
Writes DIR/rank-N.log and DIR/outcome.json; exits as bench would.
"""

import argparse
import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from entrypoints.binding import BindMode  # noqa: E402
from entrypoints.launch.evidence import compare_with_plan  # noqa: E402
from entrypoints.launch.model import LaunchOptions, RankCommand  # noqa: E402
from entrypoints.launch.rank import script_command  # noqa: E402
from entrypoints.launch.supervisor import run  # noqa: E402
from entrypoints.placement.plan import PlanOptions, make_plan  # noqa: E402
from entrypoints.results.codec import encode  # noqa: E402
from entrypoints.topology import load  # noqa: E402

SHIM = Path(__file__).with_name("shared_card.py")
#: A PID namespace of its own, as a container has; --mount-proc so that /proc agrees with it.
PRIVATE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
#: Uses up $0 process numbers first, so that each rank's own number is another one.
LATER_PID = ("sh", "-c", 'for _ in $(seq "$0"); do /bin/true; done; "$@"; exit $?')


def wrapped(argv: tuple[str, ...], pids: str | None, rank: int) -> tuple[str, ...]:
    """argv inside the namespaces that were asked for."""
    if pids is None:
        return argv
    return (*PRIVATE, *argv) if pids == "equal" else (*PRIVATE, *LATER_PID, str(10 * (rank + 1)), *argv)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plain", action="store_true", help="the test as it is, without the shim")
    parser.add_argument("--split-hosts", action="store_true", help="odd ranks get another host name")
    parser.add_argument("--private-pids", choices=("equal", "distinct"), help="a PID namespace for each rank")
    parser.add_argument("--timeout", type=float, default=100.0)
    parser.add_argument("test")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    plan = make_plan(replace(load(None), gpus=()), PlanOptions(ranks=args.ranks, environ={}, workload="deepep-v1"))
    env = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "1",
        "RANK": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(args.test).parent), os.environ.get("PYTHONPATH", "")])),
        **({"EPBOX_TEST_SPLIT_HOSTS": "1"} if args.split_hosts else {}),
    }
    words = (args.test, "--num-processes", str(args.ranks), *args.arguments)
    script, rest = (words[0], words[1:]) if args.plain else (str(SHIM), words)
    python = os.environ.get("EPBOX_PYTHON", sys.executable)
    argv = script_command(script, rest, python)
    commands = [RankCommand(rank, wrapped(argv, args.private_pids, rank.local_rank), env, rank.local_rank) for rank in plan.ranks]
    outcome = run(commands, LaunchOptions(log_dir=args.out, bind=BindMode(), timeout_s=args.timeout, total_timeout_s=2 * args.timeout))
    placement = compare_with_plan(plan.ranks, [rank.record.evidence for rank in outcome.ranks], expect_traffic=False)
    record = {
        "exit_code": outcome.exit_code,
        "cause": outcome.cause,
        "verdict": encode(placement),
        "plan": plan.to_json(),
        "ranks": [encode(rank.record) for rank in outcome.ranks],
    }
    (args.out / "outcome.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"exit {outcome.exit_code}: {outcome.cause or placement.text}", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
