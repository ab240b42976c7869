"""Several processes that train one network together: each takes its share of every batch, gradients are averaged.

Threads meet at the end of every operation, members of a team once a step. Every member holds the same weights and takes
the same steps, so nothing but gradients, batch statistics and counts of right answers crosses between them (Gloo, over
loopback). Whether they gain anything over threads is the machine's matter: `benchmarks/training_team.py` measures it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed

from branchynet.errors import InvalidInput, Unavailable
from branchynet.system import usable_cores

__all__ = ["ALONE", "Team", "run_team"]

# A member waits so long for the others: an epoch's end, where only the first one writes files, is the longest time.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Team:
    """The place of one process, *rank* of *size*, among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the member that writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This member's part of *count* things in a row; the members' parts make up the whole."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace *tensors*, float32 and of equal shapes everywhere, by their means over all members."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        _sum_over_members(flat)
        parts = torch.split(flat.div_(self.size), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def total(self, counts: Sequence[int]) -> list[int]:
        """The sums of *counts* over all members."""
        if self.size == 1:
            return list(counts)
        summed = torch.tensor(counts)
        _sum_over_members(summed)
        return [int(count) for count in summed]


ALONE = Team()


def _sum_over_members(tensor: Tensor) -> None:
    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise Unavailable(f"a worker that trained beside this one is gone ({error})") from None


def run_team(size: int, threads: int | None, work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(team, *arguments)`` in *size* new processes, each with *threads* (None: its share of the cores).

    *work* and *arguments* must be picklable. Raises what a member raised, and ends the others then; `Unavailable` if
    one died, `InvalidInput` for a *size* below 2.
    """
    if size < 2:
        raise InvalidInput(f"size is {size}; a team has at least 2 members")
    threads = threads or max(1, usable_cores() // size)
    context = get_context("spawn")
    with TemporaryDirectory(prefix="branchynet-team-") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        with ProcessPoolExecutor(size, mp_context=context) as pool:
            members = [
                pool.submit(_member, Team(rank, size), threads, meeting, work, arguments) for rank in range(size)
            ]
            wait(members, return_when=FIRST_EXCEPTION)
        _raise_first(members)


def _member(team: Team, threads: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=meeting, rank=team.rank, world_size=team.size, timeout=PATIENCE)
    try:
        work(team, *arguments)
    finally:
        # Also reports to the others, who wait for this member, if it failed.
        distributed.destroy_process_group()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its members; they would train on for nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _raise_first(members: list[Future[None]]) -> None:
    """Raise the error of the member that failed of itself; the others only report that it went away."""
    errors = [error for member in members if (error := member.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Unavailable)):
        if isinstance(error, BrokenProcessPool):
            raise Unavailable(
                "a worker ended without a word, as one does that the system kills for its memory; fewer workers or a "
                "smaller batch take less"
            )
        raise error
