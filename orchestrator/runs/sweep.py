"""A sweep's points spread over the processes of Ray, or done here one after the other; and a sweep's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from orchestrator.nodes.ray_cluster import ray_session
from simulations.sweep.results import Row
from simulations.sweep.sweep import Halves, Point, run_points

__all__ = ["run_sweep"]

# Small enough for a progress bar that moves and for workers that end together, large enough to be worth sending.
CHUNKS_PER_CPU = 16
MAX_CHUNK = 50


def run_sweep(
    points: Sequence[Point],
    halves: Halves,
    *,
    ray: bool = True,
    ray_address: str | None = None,
    on_rows: Callable[[list[Row]], None] = lambda _rows: None,
) -> list[Row]:
    """The row of each of *points*, in their order; *on_rows* receives those of each part as it is done.

    With *ray* they are spread over the cluster at *ray_address*, or over the cores of this machine. Raises what a
    simulation raises, and see `orchestrator.nodes.ray_cluster.ray_session`.
    """
    rows: dict[int, list[Row]] = {}
    spread = _over_ray(points, halves, ray_address) if ray else _here(points, halves)
    for first, part in spread:
        rows[first] = part
        on_rows(part)
    return [row for first in sorted(rows) for row in rows[first]]


def _here(points: Sequence[Point], halves: Halves) -> Iterator[tuple[int, list[Row]]]:
    for number, point in enumerate(points):
        yield number, run_points([point], halves)


def _over_ray(points: Sequence[Point], halves: Halves, address: str | None) -> Iterator[tuple[int, list[Row]]]:
    """The position of a chunk's first point with its rows, as chunks are done; Ray gives a lost worker's to another."""
    with ray_session(address) as cpus:
        import ray
        from ray.exceptions import RayTaskError

        chunk = min(max(math.ceil(len(points) / (cpus * CHUNKS_PER_CPU)), 1), MAX_CHUNK)
        shared = ray.put(halves)
        remote = ray.remote(run_points)
        running = {
            remote.remote(points[first : first + chunk], shared): first for first in range(0, len(points), chunk)
        }
        while running:
            done, _ = ray.wait(list(running))
            for reference in done:
                try:
                    yield running.pop(reference), ray.get(reference)
                except RayTaskError as error:
                    raise error.cause from None
