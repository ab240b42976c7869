"""An edge node as on a slower machine, to measure by: `python -m orchestrator.weak_edge --times 10 FLAGS OF AN EDGE`.

It does whatever it computes, stages and codecs alike, over and over on its compute thread until that has taken ten
times as long as the first time; answers are those of any edge. (Ten times over would take less: the layers find their
weights in the cache from the second time on.) A limit on the CPU's time would not do: it takes effect by periods of
many milliseconds, in which a stage of one millisecond runs at full speed or not at all. What gRPC and the event loop do
is as fast as ever.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from branchynet.worker import Timed, Worker
from edge_node.__main__ import main as edge_main
from edge_node.node import EdgeNode

__all__ = ["RepeatingWorker", "main"]

P = ParamSpec("P")
R = TypeVar("R")


class RepeatingWorker(Worker):
    """A worker that makes every call until it took *times* as long as the first time, and gives the last result."""

    def __init__(self, name: str, times: float) -> None:
        super().__init__(name)
        self._times = times

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Timed[R]:
        """See `Worker`; it took what all the calls took."""

        def again() -> R:
            started_s = time.perf_counter()
            value = call(*args, **kwargs)
            enough_s = started_s + self._times * (time.perf_counter() - started_s)
            while time.perf_counter() < enough_s:
                value = call(*args, **kwargs)
            return value

        return await super().run(again)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.weak_edge", allow_abbrev=False)
    parser.add_argument("--times", type=float, required=True, metavar="N", help="take so many times as long")
    given, rest = parser.parse_known_args(argv)
    if not 1 <= given.times < math.inf:
        parser.error(f"--times is {given.times:g}; it must be 1 or more")

    def prepare(node: EdgeNode) -> None:
        node.compute_on(RepeatingWorker("edge-compute", given.times))

    return edge_main(rest, parser.prog, prepare)


if __name__ == "__main__":
    sys.exit(main())
