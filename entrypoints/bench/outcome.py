"""How a run of several nodes ended: the exit code and the cause that explains the others."""

import re
import signal
from collections.abc import Sequence
from typing import Any

from entrypoints.errors import RankFailed

#: Of several nodes' failures, the one that explains the others: wrong numbers, preflight, a dead rank, a hang, the rest.
EXPLAINS = (6, 3, 2, 4, 5)
#: Signals that the kernel sends for a fault of the rank itself. SIGABRT is none: NCCL's watchdog aborts ranks that lost a peer.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
#: How gloo, NCCL and sockets word that another rank is gone.
PEER_GONE = re.compile(r"connection (closed|reset|was closed)|broken pipe|remote process|closed by (remote )?peer", re.IGNORECASE)


def of_nodes(nodes: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """(exit code, cause) of all nodes together: a stop by signal first, then what explains the rest."""
    failed = [node for node in nodes if node["exit_code"]]
    if not failed:
        return 0, ""

    def weight(node: dict[str, Any]) -> tuple[int, bool, int]:
        code = node["exit_code"]
        place = -1 if code > 128 else EXPLAINS.index(code) if code in EXPLAINS else len(EXPLAINS)
        # A rank that a signal ended is a cause; ranks that lost their peer exit by themselves.
        return place, "SIG" not in node["cause"], node["node_rank"]

    worst = min(failed, key=weight)
    cause = worst["cause"]
    if worst["exit_code"] == RankFailed.exit_code and PEER_GONE.search(cause):
        worst, cause = _crash(nodes) or (worst, cause)
    if len(nodes) > 1 and worst["exit_code"] != 6 and not cause.startswith("node "):
        cause = f"node {worst['node_rank']} ({worst['hostname']}): {cause}"
    return worst["exit_code"], cause


def _crash(nodes: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str] | None:
    """(node, cause) of a rank that crashed: a peer may have seen its closed connection before its own node saw its end."""
    for node in nodes:
        for rank in node["ranks"]:
            if rank.get("signal") in CRASHES:
                return node, f"rank {rank['rank']} was killed by {signal.Signals(rank['signal']).name}"
    return None
