"""How a profile is put together: what each part is attributed to, and what it makes of an outlier."""

from dataclasses import replace

import numpy as np
import pytest

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.errors import Unavailable
from branchynet.placement.serving_profile import Link
from branchynet.serving.stage_timer import NodeProfile, Spread
from orchestrator.profiling.live_profile import asked_of, compared, middle_mean
from simulations.model.request_records import CLOUD, EDGE, FALLBACK, Records

ARTIFACT = Artifact.open("lenet-fashion")
MANIFEST, NETWORK = ARTIFACT.manifest, ARTIFACT.runner()
COUNT = 20


def node(stages, *times_ms):
    rows = tuple((Spread(ms, ms, ms),) for ms in times_ms)
    return NodeProfile("lenet-fashion", MANIFEST.content_hash, stages, (1,), rows, (), "eager", 1, 2, 1, 1)


def records(place, latency_ms, edge_ms, cloud_ms, uplink_bytes):
    values = {"latency_ms": latency_ms, "edge_ms": edge_ms, "cloud_ms": cloud_ms, "uplink_bytes": uplink_bytes}
    return Records.of(place=np.full(COUNT, place), **{name: np.full(COUNT, value) for name, value in values.items()})


LOCAL = records(EDGE, 8.0, 6.0, 0.0, 0)
RAW = records(CLOUD, 20.0, 0.0, 5.0, 837)
SPLIT = records(CLOUD, 24.0, 6.0, 3.0, 4_534)


def test_every_part_is_told_apart():
    asked = asked_of(
        [LOCAL, RAW, SPLIT], MANIFEST, {"bytes_up": COUNT * (837 + 4_534 + 120), "bytes_down": 2 * COUNT * 134}
    )
    assert (asked.framing_bytes, asked.reply_bytes) == (60, 134)
    images = load_sample().images[:1]
    found = compared(ARTIFACT, NETWORK, (node((0, 1), 3.0), node((0, 2), 1.0, 2.0)), asked, images)
    assert found.edge_factor == pytest.approx(2)  # 6 ms instead of 3
    assert found.cloud_factor == pytest.approx((5 + 3) / (3 + 2))
    profile = found.profile
    # The edge takes three times as long as the cloud for what it holds, so for the rest as well.
    assert np.ravel(profile.edge.ms) == pytest.approx([2 * 3.0, 2 * 3 * 2.0])
    assert np.ravel(profile.cloud.ms) == pytest.approx([1.6, 3.2])
    assert profile.request_ms == pytest.approx(2)
    assert profile.offload_ms == pytest.approx((13 + 13) / 2)
    far = compared(ARTIFACT, NETWORK, (found.edge, found.cloud), asked, images, Link(float("inf"), rtt_ms=5.0)).profile
    assert far.offload_ms == pytest.approx(8)
    # On a link that takes nothing, the profile gives back what was measured.
    assert profile.ms_by_exit(1, 1e12, 0.0)[0] == pytest.approx(8)


def test_an_edge_that_holds_everything_is_compared_by_two_kinds():
    asked = asked_of([LOCAL, RAW], MANIFEST)
    found = compared(
        ARTIFACT, NETWORK, (node((0, 2), 1.0, 2.0), node((0, 2), 1.0, 1.5)), asked, load_sample().images[:1]
    )
    assert found.profile.held == 2
    assert (found.edge_factor, found.cloud_factor) == (pytest.approx(2), pytest.approx(2))
    assert found.profile.framing_bytes > 0


def test_outliers_do_not_count():
    values = np.append(np.full(18, 5.0), [900.0, 0.01])
    assert middle_mean(values) == 5
    assert middle_mean(np.array([1.0, 2.0])) == 1.5


def test_requests_that_stray_are_reported():
    lost = replace(RAW, place=np.where(np.arange(COUNT) < 3, FALLBACK, CLOUD))
    with pytest.raises(Unavailable, match=r"'raw': 3, 'split': 0\} of 20; does the edge reach its cloud"):
        asked_of([LOCAL, lost, SPLIT], MANIFEST)
