"""Who asks what and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulations.model.scenario import Scenario
from simulations.model.workload import requests_of


def scenario_of(**values: Any) -> Scenario:
    return Scenario.model_validate(values)


@pytest.mark.parametrize("arrivals", ["poisson", "periodic"])
def test_a_clouds_requests_do_not_depend_on_who_else_is_there(arrivals: str) -> None:
    workload = {"arrivals": arrivals, "requests": 30}
    whole = scenario_of(edges=9, clouds=3, seed=8, workload=workload)
    for cloud in range(3):
        alone, again = requests_of(whole, cloud, 100, 60.0), requests_of(whole, cloud, 100, 60.0)
        for name in ("edges", "sent_s", "rows", "offset_s"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(again, name))
        np.testing.assert_array_equal(alone.edges, [cloud, cloud + 3, cloud + 6])
    # With two clouds fewer, cloud 0 has more edges; with the same edges its requests are the same.
    small = scenario_of(edges=3, clouds=1, seed=8, workload=workload)
    np.testing.assert_array_equal(requests_of(small, 0, 100).sent_s, requests_of(whole, 0, 100).sent_s)
    np.testing.assert_array_equal(requests_of(small, 0, 100).rows, requests_of(whole, 0, 100).rows)


def test_clouds_edges_and_seeds_differ() -> None:
    scenario = scenario_of(edges=4, clouds=2, seed=8)
    one, other = requests_of(scenario, 0, 1_000), requests_of(scenario, 1, 1_000)
    reseeded = requests_of(scenario_of(edges=4, clouds=2, seed=9), 0, 1_000)
    assert (one.sent_s[0] != one.sent_s[1]).all()
    assert (one.sent_s != other.sent_s).all()
    assert (one.sent_s != reseeded.sent_s).all()
    assert (one.rows[0] != one.rows[1]).any()
    assert len(set(requests_of(scenario, 0, 10, 50.0).offset_s)) == 2


def test_the_link_does_not_change_the_requests() -> None:
    scenario = scenario_of(edges=2)
    np.testing.assert_array_equal(requests_of(scenario, 0, 10).sent_s, requests_of(scenario, 0, 10, 900.0).sent_s)
    np.testing.assert_array_equal(requests_of(scenario, 0, 10).rows, requests_of(scenario, 0, 10, 900.0).rows)
    assert not requests_of(scenario, 0, 10).offset_s.any()


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    rate_per_s = 4.0
    workload = {"rate_per_s": rate_per_s, "requests": 20_000}
    requests = requests_of(scenario_of(edges=10, seed=1, workload=workload), 0, 10)
    gaps_s = np.diff(requests.sent_s, prepend=0.0)
    count = gaps_s.size
    assert (gaps_s > 0).all()
    assert gaps_s.mean() == pytest.approx(1 / rate_per_s, abs=4 / rate_per_s / np.sqrt(count))
    # The variance of a sample variance of n exponentials is 8 mean⁴ / n.
    assert gaps_s.var() == pytest.approx(1 / rate_per_s**2, abs=4 * np.sqrt(8 / count) / rate_per_s**2)
    # Counts in windows of a second: as many on average as their variance says.
    counts = np.concatenate([np.bincount(sent_s[sent_s < 4_000].astype(np.int64)) for sent_s in requests.sent_s])
    assert counts.mean() == pytest.approx(rate_per_s, rel=0.02)
    assert counts.var() == pytest.approx(rate_per_s, rel=0.04)


def test_periodic_requests_come_at_even_intervals_from_a_phase_of_their_own() -> None:
    workload = {"arrivals": "periodic", "rate_per_s": 5.0, "requests": 50}
    requests = requests_of(scenario_of(edges=200, workload=workload), 0, 10)
    np.testing.assert_allclose(np.diff(requests.sent_s, axis=1), 0.2)
    phases_s = requests.sent_s[:, 0]
    assert ((phases_s >= 0) & (phases_s < 0.2)).all()
    assert phases_s.mean() == pytest.approx(0.1, abs=4 * 0.2 / np.sqrt(12 * 200))


def test_every_sample_comes_about_as_often() -> None:
    workload = {"requests": 10_000}
    requests = requests_of(scenario_of(edges=5, workload=workload), 0, 10)
    assert requests.rows.shape == requests.sent_s.shape == (5, 10_000)
    np.testing.assert_allclose(np.bincount(requests.rows.ravel(), minlength=10), 5_000, atol=4 * np.sqrt(4_500))


def test_every_edge_starts_somewhere_in_the_links_course() -> None:
    offsets_s = requests_of(scenario_of(edges=500), 0, 10, 30.0).offset_s
    assert ((offsets_s >= 0) & (offsets_s < 30)).all()
    assert offsets_s.mean() == pytest.approx(15, abs=4 * 30 / np.sqrt(12 * 500))
