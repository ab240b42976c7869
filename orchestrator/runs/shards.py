"""A scenario simulated cloud by cloud, several clouds a task, in this process or by Ray's workers.

A cloud with its edges shares nothing with the others, and its requests depend on the seed and its number only; so
shards give the same records as one run. They come back in the order of the clouds, a bounded number at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from branchynet.system import peak_rss_bytes
from simulations.model.request_records import Records
from simulations.model.scenario import Scenario
from simulations.model.simulator import Measured, simulate_cloud

__all__ = ["Shard", "clouds_of_shards", "run_here", "run_on_ray", "simulate_shard"]

# What a task should have to do at least; below that, sending its records takes longer than making them.
SHARD_REQUESTS = 100_000
# The object store holds records of tasks that have ended and were not fetched yet.
TASKS_PER_CPU = 2


@dataclass(frozen=True)
class Shard:
    """The records of a task's clouds, and the process that made them: its id and most memory so far, in bytes."""

    records: Records
    pid: int
    peak_rss_bytes: int


def clouds_of_shards(scenario: Scenario, shard_requests: int = SHARD_REQUESTS) -> list[range]:
    """The clouds of each shard: as few as bring *shard_requests* requests, at least one."""
    # Whole clouds, as nothing crosses from one to another: the records do not depend on how many shards there are.
    requests_per_cloud = scenario.requests / scenario.clouds
    clouds = max(1, round(shard_requests / requests_per_cloud))
    return [range(first, min(first + clouds, scenario.clouds)) for first in range(0, scenario.clouds, clouds)]


def simulate_shard(scenario: Scenario, measured: Measured, clouds: range) -> Shard:
    """Simulate *clouds* of *scenario*. Raises `InvalidInput` for a plan the network does not have."""
    uplinks = scenario.uplinks()
    records = Records.joined([simulate_cloud(scenario, measured, cloud, uplinks) for cloud in clouds])
    return Shard(records, os.getpid(), peak_rss_bytes())


def run_here(scenario: Scenario, measured: Measured, shards: list[range]) -> Iterator[Shard]:
    """Each of *shards*, one after the other, in this process."""
    for clouds in shards:
        yield simulate_shard(scenario, measured, clouds)


def run_on_ray(scenario: Scenario, measured: Measured, shards: list[range], cpus: int) -> Iterator[Shard]:
    """Each of *shards*, in their order, by Ray's workers on *cpus* CPUs; Ray must be up (`ray_session`).

    A task whose worker dies is done again by another. Raises `InvalidInput` as `simulate_shard` does.
    """
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(simulate_shard)
    # Once for all tasks, not with each.
    given = ray.put(scenario), ray.put(measured)
    waiting = deque(shards)
    running: deque[ray.ObjectRef[Shard]] = deque()
    while waiting or running:
        while waiting and len(running) < TASKS_PER_CPU * cpus:
            running.append(task.remote(*given, waiting.popleft()))
        try:
            shard: Shard = ray.get(running.popleft())
        except RayTaskError as error:
            raise error.cause from None
        yield shard
