"""A learned codec: what the decoder makes of the encoder's levels, refused where the halves do not belong together."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from network_examples import LENET, pictures, random_network, save_artifact, seeded
from node_examples import IMAGES, LIMITS, FailingUplink, WorkingUplink

from branchynet import artifact
from branchynet.codecs import BottleneckCodec, BottleneckShape, Payload, named_codec
from branchynet.codecs.entropy import LevelTables
from branchynet.codecs.learned import Bottleneck
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.plans import Plan
from branchynet.errors import DamagedData, InvalidInput, TooLarge, Unavailable, UnknownModel
from branchynet.prediction import Place
from cloud_node.node import CloudNode
from edge_node.node import EdgeNode

MAP = (5, 15, 15)
SHAPE = BottleneckShape(MAP, channels=3, levels=4, kernel=5, stride=2, width=6)
NEVER = ExitRule.never(2)


def maps(count=3):
    return np.maximum(seeded(3).normal(size=(count, *MAP)), 0).astype(np.float32)


def made(shape=SHAPE, seed=0, digest="a"):
    """A codec with fresh weights."""
    torch.manual_seed(seed)
    bottleneck = Bottleneck(shape).eval().requires_grad_(False)
    levels = np.stack([bottleneck.levels(sample) for sample in np.resize(maps(), (3, *shape.map_shape))])
    tables = LevelTables.fitted(levels.reshape(-1, *shape.code_shape), shape.levels)
    return BottleneckCodec(shape, bottleneck, tables, digest)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        dataclasses.replace(SHAPE, kernel=3, stride=3, hidden=4, blocks=1, positive=False),
        dataclasses.replace(SHAPE, map_shape=(2, 7, 10), kernel=1, stride=1, levels=9),
        dataclasses.replace(SHAPE, map_shape=(2, 1, 4), channels=1, levels=2),
    ],
)
def test_what_comes_back_is_what_the_decoder_makes_of_the_levels(shape):
    codec = made(shape)
    batch = np.resize(maps(), (3, *shape.map_shape))
    back = codec.decode(codec.encode(batch), shape.map_shape, 3)
    bottleneck = codec.halves
    with torch.inference_mode():
        levels = bottleneck.codes(torch.from_numpy(batch)).round()
        expected = bottleneck.decoded(levels).numpy()
    assert levels.shape[1:] == shape.code_shape
    assert 0 <= levels.min() <= levels.max() <= shape.levels - 1
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, expected, atol=1e-5)
    assert (back.min() >= 0) == shape.positive
    assert np.isinf(codec.error_bound(batch)).all()
    assert not codec.lossless


def test_a_batch_is_decoded_as_its_samples_would_be_alone():
    codec, batch = made(), maps(5)
    together = codec.decode(codec.encode(batch), MAP, 5)
    alone = [codec.decode(codec.encode(sample[None]), MAP, 1)[0] for sample in batch]
    np.testing.assert_array_equal(together, np.stack(alone))
    sizes = [len(codec.encode(sample[None]).data) for sample in batch]
    assert len(codec.encode(batch).data) == sum(sizes) + 2 * 4


@pytest.mark.parametrize("other", [made(digest="b"), made(dataclasses.replace(SHAPE, positive=False))])
def test_halves_with_other_weights_or_of_another_form_do_not_talk(other):
    codec = made()
    assert codec.mark != other.mark
    with pytest.raises(InvalidInput, match="made with other weights"):
        other.decode(codec.encode(maps()), MAP, 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data[:-1], "damaged"),
        (lambda data: data + b"\1", "damaged"),
        (lambda data: data[:3], "before the lengths"),
        (lambda data: b"\xff\xff" + data[2:], "sample 0 of 3 has 65535 bytes"),
        (lambda data: b"\0\0" + data[2:], "0 bytes, it must be 4"),
        (lambda data: data + bytes(100_000), "it must be 4 to"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(change, complaint):
    codec = made()
    payload = codec.encode(maps())
    with pytest.raises(InvalidInput, match=complaint):
        codec.decode(dataclasses.replace(payload, data=change(payload.data)), MAP, 3)


def test_a_head_that_does_not_fit_is_refused():
    codec = made()
    payload = codec.encode(maps())
    for wrong, limit, error in (
        (dataclasses.replace(payload, shape=(3, 5, 15, 14)), 3, InvalidInput),
        (dataclasses.replace(payload, shape=(2**40, *MAP)), 3, TooLarge),
        (dataclasses.replace(payload, version=2), 3, InvalidInput),
        (payload, 2, TooLarge),
    ):
        with pytest.raises(error):
            codec.decode(wrong, MAP, limit)
    with pytest.raises(InvalidInput, match="here they are"):
        codec.decode(dataclasses.replace(payload, shape=(3, 5, 3, 3)), (5, 3, 3), 3)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        (maps().astype(np.float64), "float64"),
        (maps()[:, :4], r"\(3, 4, 15, 15\)"),
        (maps()[:0], r"\(0, 5"),
        (np.full((1, *MAP), np.nan, np.float32), "finite"),
        (np.full((1, *MAP), np.inf, np.float32), "finite"),
    ],
)
def test_what_a_bottleneck_does_not_carry_is_refused(batch, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        made().encode(batch)


def test_values_that_overflow_inside_are_levels_too():
    codec = made()
    huge = np.full((1, *MAP), 3e38, np.float32)
    assert codec.decode(codec.encode(huge), MAP, 1).shape == huge.shape


@pytest.mark.parametrize(
    "changes",
    [
        {"map_shape": (720,)},
        {"channels": 0},
        {"levels": 1},
        {"levels": 257},
        {"kernel": 4},
        {"stride": 7},
        {"width": 0},
        {"channels": 900},
    ],
)
def test_a_form_that_cannot_be_made_is_refused(changes):
    with pytest.raises(InvalidInput):
        dataclasses.replace(SHAPE, **changes)


# --- in an artifact ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """An artifact of LeNet with a bottleneck at its cut."""
    manifest = save_artifact(tmp_path, random_network(), LENET, NEVER)
    codec = made()
    artifact.save_bottleneck(tmp_path, manifest, 1, codec.halves, codec.tables)
    return tmp_path


def test_an_artifact_brings_its_bottleneck_and_is_the_same_network(folder):
    manifest, _ = artifact.load(folder)
    without = dataclasses.replace(manifest, bottlenecks={})
    assert manifest.content_hash == without.content_hash
    assert manifest.bottlenecks[1].shape == SHAPE
    codec = manifest.codec("bottleneck", 1)
    batch = maps()
    levels = [codec.halves.levels(sample) for sample in batch]
    kept = [made().halves.half().float().levels(sample) for sample in batch]
    np.testing.assert_array_equal(levels, kept)
    np.testing.assert_array_equal(codec.tables.frequencies, made().tables.frequencies)
    # Written again, also by who has loaded it, the manifest says the same.
    artifact.write_manifest(folder, manifest)
    assert artifact.read_manifest(folder) == manifest


def test_each_half_brings_the_bottlenecks_of_the_cuts_it_touches(folder):
    (folder / "stage-1.safetensors").unlink()
    assert set(artifact.load(folder, 0, 1)[0].learned) == {1}
    assert set(artifact.load(folder, 0, 0)[0].learned) == set()
    (folder / "bottleneck-1.safetensors").unlink()
    with pytest.raises(UnknownModel, match=r"does not hold bottleneck-1\.safetensors"):
        artifact.load(folder, 0, 1)


def test_an_artifact_without_one_is_asked_in_vain(loaded):
    manifest, network = loaded(LENET, 0, 1)
    with pytest.raises(InvalidInput, match="no bottleneck was trained for this cut"):
        manifest.codec("bottleneck", 1)
    node = EdgeNode(manifest, network, None, LIMITS, 4)
    try:
        with pytest.raises(InvalidInput, match="no bottleneck"):
            node.adopt(Plan(1, NEVER, codec="bottleneck"))
    finally:
        node.close()
    with pytest.raises(InvalidInput, match="no bottleneck"):
        named_codec("bottleneck")


def test_weights_that_were_changed_are_noticed(folder):
    path = folder / "bottleneck-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(DamagedData, match="has SHA-256"):
        artifact.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 4},
        {"levels": 5},
        {"kernel": 2},
        {"stride": "2"},
        {"sha256": None},
    ],
)
def test_a_manifest_that_tells_of_another_bottleneck_is_damage(folder, change):
    raw = json.loads((folder / "manifest.json").read_text())
    raw["bottlenecks"]["1"].update(change)
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(DamagedData):
        artifact.load(folder)


@pytest.mark.parametrize("cut", ["0", "2", "one"])
def test_a_bottleneck_at_no_cut_is_damage(folder, cut):
    raw = json.loads((folder / "manifest.json").read_text())
    raw["bottlenecks"] = {cut: raw["bottlenecks"]["1"]}
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(DamagedData, match="bottlenecks are for cut"):
        artifact.read_manifest(folder)


# --- between nodes -----------------------------------------------------------------------------------------


@pytest.fixture
def halves(folder):
    """An edge that sends by its bottleneck, and its cloud."""
    cloud = CloudNode(*artifact.load(folder), 64)
    edge = EdgeNode(*artifact.load(folder, 0, 1), WorkingUplink(cloud), LIMITS, 64)
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    yield edge, cloud
    for node in (edge, cloud):
        node.close()


async def test_the_cloud_goes_on_from_what_its_decoder_made(halves, folder):
    edge, cloud = halves
    manifest, network = artifact.load(folder)
    codec, features = manifest.codec("bottleneck", 1), network.resume(IMAGES, 0, 1, NEVER).features
    received = codec.decode(codec.encode(features), MAP, 64)
    expected = network.resume(received, 1, 2, NEVER)
    answers = await edge.classify(IMAGES, rule=NEVER)
    np.testing.assert_array_equal([answer.label for answer in answers], expected.logits.argmax(1))
    resumed = await cloud.resume(manifest.content_hash, 1, codec.encode(features), NEVER)
    np.testing.assert_array_equal(resumed.logits, expected.logits)


async def test_a_cloud_with_another_bottleneck_refuses_and_the_edge_answers(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    codec = made(seed=1)
    artifact.save_bottleneck(other, save_artifact(other, random_network(), LENET, NEVER), 1, codec.halves, codec.tables)
    cloud = CloudNode(*artifact.load(other), 64)
    edge = EdgeNode(*artifact.load(folder, 0, 1), WorkingUplink(cloud), LIMITS, 64)
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    try:
        answers = await edge.classify(pictures(LENET, 2), rule=NEVER)
    finally:
        edge.close()
        cloud.close()
    assert {answer.place for answer in answers} == {Place.FALLBACK}
    assert all("other weights" in answer.fallback_reason for answer in answers)


async def test_an_edge_whose_cloud_is_away_answers_itself(folder):
    edge = EdgeNode(*artifact.load(folder, 0, 1), FailingUplink(Unavailable("away")), LIMITS, 64)
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    try:
        answers = await edge.classify(IMAGES, rule=NEVER)
    finally:
        edge.close()
    assert {answer.place for answer in answers} == {Place.FALLBACK}


async def test_a_cloud_refuses_garbage_in_the_name_of_its_bottleneck(halves, folder):
    _, cloud = halves
    manifest = artifact.read_manifest(folder)
    for data in (b"", bytes(4), bytes(range(40)), bytes(10_000)):
        with pytest.raises(InvalidInput):
            await cloud.resume(manifest.content_hash, 1, Payload("bottleneck", 1, (1, *MAP), data), NEVER)
