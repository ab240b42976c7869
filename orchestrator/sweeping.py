"""A sweep's points spread over the processes of Ray, or done here one after the other; and a sweep's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.ray_session import ray_session
from simulations.pictures import draw_fronts, draw_winners
from simulations.report import write_report
from simulations.rows import Row, write_rows
from simulations.sweep import Halves, Point, run_points
from simulations.winners import Sweep

__all__ = ["run_sweep", "write_sweep"]

# Small enough for a progress bar that moves and for workers that end together, large enough to be worth sending.
CHUNKS_PER_CPU = 16
MAX_CHUNK = 50


def run_sweep(
    points: Sequence[Point],
    halves: Halves,
    *,
    ray: bool = True,
    ray_address: str | None = None,
    on_rows: Callable[[int], None] = lambda _rows: None,
) -> list[Row]:
    """The row of each of *points*, in their order; *on_rows* is told how many more are there.

    With *ray* they are spread over the cluster at *ray_address*, or over the cores of this machine. Raises what a
    simulation raises, and see `orchestrator.ray_session.ray_session`.
    """
    rows: dict[int, list[Row]] = {}
    spread = _over_ray(points, halves, ray_address) if ray else _here(points, halves)
    for first, part in spread:
        rows[first] = part
        on_rows(len(part))
    return [row for first in sorted(rows) for row in rows[first]]


def write_sweep(sweep: Sweep, out: Path, dataset: str) -> list[Path]:
    """Write the rows, the report and the pictures to the folder *out*; their paths. *dataset* is for the titles."""
    title = f"{sweep.base.artifact} on {dataset}"
    write_rows(out / "results.parquet", sweep.rows)
    write_report(sweep, out / "report.html", title)
    draw_winners(sweep, out / "winners.png", title)
    draw_fronts(sweep, out / "fronts.png", title)
    return [out / name for name in ("report.html", "results.parquet", "winners.png", "fronts.png")]


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
