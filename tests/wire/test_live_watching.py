"""An edge on a real socket watches its exits: calm on clean images, an alarm on worse ones, and it keeps its share."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import structlog
from running_nodes import serving

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient
from branchynet.data.corruptions import Corruption, corrupt
from branchynet.errors import InvalidInput
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.drift import Reference
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.serving.logging import Event
from branchynet.serving.prediction import Place, Policy
from edge_node.build import open_edge
from edge_node.service import EdgeService
from edge_node.settings import EdgeSettings

BATCH = 10


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, sample) -> Path:
    """The shipped artifact with the scores of every other sample image as those of its calibration."""
    folder = tmp_path_factory.mktemp("recorded") / "lenet-fashion"
    shutil.copytree(zoo.find("lenet-fashion"), folder)
    artifact = Artifact.open(folder)
    manifest, network = artifact.manifest, artifact.network()
    table = measure_outcomes(network, manifest.cost, sample.take(np.arange(0, len(sample), 2)))
    artifact.with_calibration(Reference.of(table, manifest.rule)).save()
    return folder


@contextlib.asynccontextmanager
async def watching(folder, keep_exit_share=None):
    settings = EdgeSettings.model_construct(
        artifact=str(folder), cloud="", port=0, grace_s=2.0, keep_exit_share=keep_exit_share
    )
    async with (
        open_edge(settings) as (node, limit),
        serving(EdgeService(node).register, settings, limit) as port,
        AsyncClient(f"127.0.0.1:{port}") as client,
    ):
        yield node, client


async def classify(client, images, **options):
    """Share of *images* that left at the edge's exit; the others fell back, for there is no cloud."""
    left = 0
    for start in range(0, len(images), BATCH):
        predictions = await client.classify(images[start : start + BATCH], **options)
        left += sum(prediction.place is Place.EDGE for prediction in predictions)
    return left / len(images)


def live(sample, noisy=False):
    """The images that calibration did not see, in a random order."""
    images = sample.images[np.random.default_rng(0).permutation(len(sample) // 2) * 2 + 1]
    return corrupt(images, Corruption.NOISE, 5) if noisy else images


async def test_clean_images_raise_no_alarm_and_move_nothing(recorded, sample):
    async with watching(recorded) as (node, client):
        with structlog.testing.capture_logs() as logs:
            before = (await client.describe()).rule
            await classify(client, live(sample))
        assert node.versions.current.watcher.monitor.samples(0) >= 480
        assert node.versions.current.watcher.monitor.alarms == ()
        assert (await client.describe()).rule == before
    assert not [entry for entry in logs if entry["event"] == Event.DRIFT]


async def test_corrupted_images_raise_one_alarm(recorded, sample):
    async with watching(recorded) as (_, client):
        with structlog.testing.capture_logs() as logs:
            await classify(client, live(sample, noisy=True))
    (entry,) = [entry for entry in logs if entry["event"] == Event.DRIFT]
    assert (entry["exit"], entry["exit_0_evidence"]) == (0, 1.0)
    assert entry["exit_0_samples"] < 300
    assert entry["seen_share"] < entry["expected_share"]


async def test_the_exit_share_is_kept_on_corrupted_images(recorded, sample):
    noisy = live(sample, noisy=True)
    async with watching(recorded) as (_, client):
        fixed = await classify(client, noisy)
    async with watching(recorded, keep_exit_share=0.8) as (node, client):
        with structlog.testing.capture_logs() as logs:
            kept = await classify(client, noisy)
        told = (await client.describe()).rule
        assert told == node.versions.current.watcher.rule != node.versions.current.watcher._calibrated
    assert fixed < 0.6
    # The bound of `Retuner` for these 500 images, looked at in chunks of at most 20.
    assert abs(kept - 0.8) < (1 + 0.01 * 20) / (0.01 * len(noisy))
    assert kept > fixed + 0.1
    assert [entry for entry in logs if entry["event"] == Event.RETUNED]


async def test_requests_with_a_rule_of_their_own_and_those_for_the_cloud_are_not_watched(recorded, sample):
    own = ExitRule(Criterion.ENTROPY, (0.7,))
    async with watching(recorded, keep_exit_share=0.5) as (node, client):
        await classify(client, live(sample)[:100], rule=own)
        await classify(client, live(sample)[:100], policy=Policy.CLOUD_ONLY)
        assert node.versions.current.watcher.monitor.samples(0) == 0
        assert (await client.describe()).rule == node.versions.current.watcher._calibrated
        await classify(client, live(sample)[:100], policy=Policy.EDGE_ONLY)
        assert node.versions.current.watcher.monitor.samples(0) > 80


async def test_a_share_cannot_be_kept_without_the_scores_of_calibration(tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(zoo.find("lenet-fashion"), folder)
    manifest = Artifact.open(folder).manifest
    Artifact.open(folder).with_rule(manifest.rule, {}).save()
    with pytest.raises(InvalidInput, match=r"keep_exit_share is 0\.8, but lenet-fashion"):
        async with watching(folder, keep_exit_share=0.8):
            pass
    async with watching(folder) as (node, _):
        assert node.versions.current.watcher is None
    async with watching(zoo.find("lenet-fashion")) as (node, _):
        assert node.versions.current.watcher is not None
