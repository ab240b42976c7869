"""What queueing theory says about long runs, within a few standard errors of independent replications."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import plain_measured

from branchynet.placement.serving_profile import StageTimes
from simulations.model.queues import serve, serve_in_batches
from simulations.model.scenario import Scenario
from simulations.model.simulator import simulate

SERVICE_MS = 4.0
REPLICATIONS, REQUESTS, WARM_UP = 60, 20_000, 4_000


def assert_mean(values: NDArray[np.float64], theory: float) -> None:
    """The replications' means, rows of *values* behind the warm-up, lie around *theory*, and closely enough."""
    means = values.reshape(len(values), -1)[:, WARM_UP:].mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 0.02 * theory
    assert means.mean() == pytest.approx(theory, abs=4 * error)


def md1_wait_ms(rho: float) -> float:
    """Mean wait of a queue with Poisson arrivals and constant service (Pollaczek–Khinchine)."""
    return rho * SERVICE_MS / (2 * (1 - rho))


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_random_service_waits_as_in_m_m_1(rho: float) -> None:
    rng = np.random.default_rng([1, int(10 * rho)])
    shape = (REPLICATIONS, REQUESTS)
    ready_s = np.cumsum(rng.exponential(1 / rho, shape), axis=1)
    work_s = rng.exponential(1.0, shape)
    system_s = serve(ready_s, work_s) - ready_s
    assert_mean(system_s, 1 / (1 - rho))
    assert_mean(system_s - work_s, rho / (1 - rho))


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_the_edge_waits_as_in_m_d_1(rho: float) -> None:
    scenario = Scenario.model_validate(
        {
            "edges": REPLICATIONS,
            "seed": 5,
            "workload": {"requests": REQUESTS, "rate_per_s": 1e3 * rho / SERVICE_MS},
            "plan": {"edge_only": True},
        }
    )
    records = simulate(scenario, plain_measured(edge_ms=SERVICE_MS))
    assert_mean(records.edge_ms.reshape(REPLICATIONS, -1), md1_wait_ms(rho) + SERVICE_MS)
    np.testing.assert_allclose(records.latency_ms, records.edge_ms)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_the_uplink_waits_as_in_m_d_1(rho: float) -> None:
    scenario = Scenario.model_validate(
        {
            "edges": REPLICATIONS,
            "seed": 6,
            "workload": {"requests": REQUESTS, "rate_per_s": 1e3 * rho / SERVICE_MS},
            "link": {"uplink_mbps": 2.0, "rtt_ms": 10},
            "limits": {"deadline_ms": 1e9, "offload_timeout_ms": 1e9},
        }
    )
    records = simulate(scenario, plain_measured(message_bytes=round(SERVICE_MS * 2_000 / 8), offload_ms=3))
    assert_mean(records.network_ms.reshape(REPLICATIONS, -1), md1_wait_ms(rho) + SERVICE_MS + 10 + 3)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_the_cloud_of_many_edges_waits_as_in_m_d_1(rho: float) -> None:
    # Ten Poisson streams of a tenth of the rate are one; each cloud is a replication.
    edges = 10
    scenario = Scenario.model_validate(
        {
            "edges": edges * REPLICATIONS,
            "clouds": REPLICATIONS,
            "seed": 7,
            "workload": {"requests": REQUESTS // edges, "rate_per_s": 1e3 * rho / SERVICE_MS / edges},
            "link": {"uplink_mbps": 1e9},
            "limits": {"deadline_ms": 1e9, "offload_timeout_ms": 1e9},
        }
    )
    records = simulate(scenario, plain_measured(cloud_ms=SERVICE_MS))
    # Rows come edge by edge: the warm-up is the start of every edge, and the end is without the longest edges' tails.
    cloud_ms = records.cloud_ms.reshape(REPLICATIONS, edges, -1)
    steady = cloud_ms[:, :, WARM_UP // edges : -100].reshape(REPLICATIONS, -1)
    means = steady.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(REPLICATIONS)
    assert error < 0.02 * (md1_wait_ms(rho) + SERVICE_MS)
    assert means.mean() == pytest.approx(md1_wait_ms(rho) + SERVICE_MS, abs=4 * error)


def test_two_workers_wait_as_in_m_m_2() -> None:
    # Erlang C with two servers at load 0.7 each: wait = rho² / (1 - rho²) services.
    rho, waits = 0.7, []
    for replication in range(20):
        rng = np.random.default_rng([2, replication])
        ready_s = np.cumsum(rng.exponential(1 / (2 * rho), 10_000))
        work_s = iter(rng.exponential(1.0, 10_000).tolist())
        start_s, _ = serve_in_batches(ready_s, np.ones(10_000, np.int64), lambda _, work_s=work_s: next(work_s), 2, 1)
        waits.append(start_s - ready_s)
    means = np.array(waits)[:, 1_000:].mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert means.mean() == pytest.approx(rho**2 / (1 - rho**2), abs=4 * error)
    assert error < 0.05


def test_batches_let_a_cloud_keep_up_with_more_than_it_can_do_singly() -> None:
    # Eight at a time take no longer than one, and twice as many come as can be done singly.
    measured = plain_measured()
    together = StageTimes((1, 8), ((SERVICE_MS, SERVICE_MS), (0.0, 0.0)))
    measured = replace(measured, profile=replace(measured.profile, cloud=together))
    waits_ms = {}
    for max_batch in (1, 8):
        scenario = Scenario.model_validate(
            {
                "workload": {"requests": 2_000, "rate_per_s": 2e3 / SERVICE_MS},
                "link": {"uplink_mbps": 1e9},
                "cloud": {"max_batch": max_batch},
                "limits": {"deadline_ms": 1e9, "offload_timeout_ms": 1e9},
            }
        )
        waits_ms[max_batch] = simulate(scenario, measured).cloud_ms
    assert waits_ms[1][-1] == pytest.approx(1_000 * SERVICE_MS, rel=0.2)
    assert waits_ms[8].mean() < 2 * SERVICE_MS
