"""A learned codec: what the decoder makes of the encoder's levels, refused where the halves do not belong together."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from network_examples import LENET, opened, pictures, random_network, save_artifact, seeded
from node_examples import IMAGES, LIMITS, FailingUplink, WorkingUplink

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import BottleneckCodec, Payload, named_codec
from branchynet.codecs.ans import LevelTables
from branchynet.codecs.bottleneck import ConvolutionShape, TransformShape
from branchynet.codecs.bottleneck_net import TransformBottleneck, fresh_bottleneck
from branchynet.errors import DamagedData, InvalidInput, TooLarge, Unavailable, UnknownModel
from branchynet.exits.rules import ExitRule
from branchynet.placement.plan import Plan
from branchynet.serving.prediction import Place
from cloud_node.node import CloudNode
from cloud_node.version import CloudVersion
from edge_node.node import EdgeNode
from edge_node.version import EdgeVersion

MAP = (5, 15, 15)
SHAPE = ConvolutionShape(map_shape=MAP, channels=3, levels=4, kernel=5, stride=2, width=6)
TRANSFORM = TransformShape(map_shape=MAP, kept=48, levels=5, side=4, width=6)
NEVER = ExitRule.never(2)


def maps(count=3):
    return np.maximum(seeded(3).normal(size=(count, *MAP)), 0).astype(np.float32)


def made(shape=SHAPE, seed=0, digest="a"):
    """A codec with fresh weights."""
    torch.manual_seed(seed)
    bottleneck = fresh_bottleneck(shape).eval().requires_grad_(False)
    batch = np.resize(maps(), (3, *shape.map_shape))
    if isinstance(bottleneck, TransformBottleneck):
        bottleneck.begin_at(torch.from_numpy(batch), step=0.5)
    levels = np.stack([bottleneck.levels(sample) for sample in batch])
    tables = LevelTables.fitted(levels.reshape(-1, *shape.code_shape), shape.levels)
    return BottleneckCodec(shape, bottleneck, tables, digest)


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        dataclasses.replace(SHAPE, kernel=3, stride=3, hidden=4, blocks=1, positive=False),
        dataclasses.replace(SHAPE, map_shape=(2, 7, 10), kernel=1, stride=1, levels=9),
        dataclasses.replace(SHAPE, map_shape=(2, 1, 4), channels=1, levels=2),
        TRANSFORM,
        dataclasses.replace(TRANSFORM, map_shape=(8, 5, 7), kept=128, levels=15, side=0, blocks=1, positive=False),
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


@pytest.mark.parametrize("other", [made(digest="b"), made(dataclasses.replace(SHAPE, positive=False)), made(TRANSFORM)])
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


@pytest.mark.parametrize("shape", [SHAPE, TRANSFORM])
def test_values_that_overflow_inside_are_levels_too(shape):
    codec = made(shape)
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


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kept": 0}, "kept is 0"),
        ({"kept": 50}, "kept is 50; coefficients are kept in groups of 16"),
        ({"kept": 96}, "the transform has 80 coefficients"),
        ({"levels": 4}, "an odd number"),
        ({"side": -1}, "side is -1"),
    ],
)
def test_a_transform_that_cannot_be_made_is_refused(changes, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        dataclasses.replace(TRANSFORM, **changes)


# --- the transform -----------------------------------------------------------------------------------------


def correlated(count=400, shape=(6, 5, 4)):
    """Maps whose values hang together: few coefficients hold most of their variance. float32 [count, *shape]."""
    rng = seeded(8)
    causes, mixing = rng.normal(size=(count, 7)), rng.normal(size=(7, int(np.prod(shape))))
    made_up = causes @ mixing + 0.05 * rng.normal(size=(count, mixing.shape[1])) + 3
    return torch.from_numpy(made_up.reshape(count, *shape).astype(np.float32))


def transform_of(batch, kept, step, levels=255, **more):
    bottleneck = TransformBottleneck(TransformShape(map_shape=batch.shape[1:], kept=kept, levels=levels, **more))
    bottleneck.begin_at(batch, step)
    return bottleneck.requires_grad_(False)


def test_a_transform_that_keeps_all_gives_back_the_map_within_its_step():
    batch = correlated(shape=(4, 4, 4))
    step = 0.1
    bottleneck = transform_of(batch, 64, step, positive=False)
    codes = bottleneck.codes(batch)
    back = bottleneck.decoded(codes.round())
    # The transform is orthogonal: what rounding does to the coefficients is what it does to the map, as a whole.
    bound = step * float(batch.std()) / 2 * 64**0.5
    assert codes.min() > 0
    assert codes.max() < 254
    assert (back - batch).flatten(1).norm(dim=1).max() <= bound * 1.001


def test_no_kept_coefficient_varies_less_than_one_that_is_not():
    batch = correlated()
    bottleneck = transform_of(batch, 16, 1.0)
    variance = bottleneck.encoder(batch - batch.mean(0)).flatten(1).square().mean(0)
    kept = variance[bottleneck.kept]
    left_out = torch.ones_like(variance, dtype=torch.bool).index_fill(0, bottleneck.kept, False)
    assert (kept.diff() <= 0).all()
    assert kept[-1] >= variance[left_out].max()
    values = batch.flatten(1).var(0).sort(descending=True).values
    assert kept.sum() > 1.5 * values[:16].sum()
    torch.testing.assert_close(variance.sum(), values.sum(), rtol=0.01, atol=0.0)


def test_channels_are_uncorrelated_at_each_frequency():
    batch = correlated()
    coefficients = transform_of(batch, 16, 1.0).encoder(batch - batch.mean(0))
    covariance = torch.einsum("bvhc,bvhd->vhcd", coefficients, coefficients) / len(batch)
    beside = covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    assert beside.abs().max() < 1e-3 * covariance.abs().max()


def test_fewer_frequencies_are_those_of_the_whole_transform_that_vary_most():
    batch = correlated()
    whole, low = transform_of(batch, 16, 1.0), transform_of(batch, 16, 1.0, side=2)
    torch.testing.assert_close(low.encoder.rows, whole.encoder.rows[:, :2])
    assert low.encoder(batch).shape == (400, 2, 2, 6)
    assert low.decoded(low.codes(batch).round()).shape == batch.shape


# --- in an artifact ----------------------------------------------------------------------------------------


@pytest.fixture(params=[SHAPE, TRANSFORM], ids=["convolution", "transform"])
def folder(tmp_path, request):
    """An artifact of LeNet with a bottleneck at its cut."""
    artifact = save_artifact(tmp_path, random_network(), LENET, NEVER)
    codec = made(request.param)
    artifact.add_bottleneck(1, codec.halves, codec.tables)
    return tmp_path


def test_an_artifact_brings_its_bottleneck_and_is_the_same_network(folder):
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    without = dataclasses.replace(manifest, bottlenecks={})
    assert manifest.content_hash == without.content_hash
    shape = manifest.bottlenecks[1].shape
    assert shape in (SHAPE, TRANSFORM)
    codec = artifact.codec("bottleneck", 1)
    batch = maps()
    levels = [codec.halves.levels(sample) for sample in batch]
    kept = [made(shape).halves.half().float().levels(sample) for sample in batch]
    np.testing.assert_array_equal(levels, kept)
    np.testing.assert_array_equal(codec.tables.frequencies, made(shape).tables.frequencies)
    # Written again, also by who has loaded it, the manifest says the same.
    artifact.save()
    assert Artifact.open(folder).manifest == manifest


def test_each_half_brings_the_bottlenecks_of_the_cuts_it_touches(folder):
    (folder / "stage-1.safetensors").unlink()
    opened(folder, 0, 1)
    (folder / "bottleneck-1.safetensors").unlink()
    opened(folder, 0, 0)
    with pytest.raises(UnknownModel, match=r"does not hold bottleneck-1\.safetensors"):
        opened(folder, 0, 1)


def test_an_artifact_without_one_is_asked_in_vain(loaded):
    artifact, network = loaded(LENET, 0, 1)
    with pytest.raises(InvalidInput, match="no bottleneck was trained for this cut"):
        artifact.codec("bottleneck", 1)
    node = EdgeNode(EdgeVersion(artifact, network, None, LIMITS, 4))
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
        opened(folder)


@pytest.mark.parametrize(
    ("folder", "change"),
    [
        (SHAPE, {"channels": 4}),
        (SHAPE, {"kernel": 2}),
        (SHAPE, {"form": "transform"}),
        (SHAPE, {"form": "wavelet"}),
        (SHAPE, {"levels": 5}),
        (SHAPE, {"stride": "2"}),
        (SHAPE, {"sha256": None}),
        (TRANSFORM, {"kept": 32}),
        (TRANSFORM, {"kept": 50}),
        (TRANSFORM, {"side": 5}),
        (TRANSFORM, {"form": "convolution"}),
        (TRANSFORM, {"levels": 7}),
    ],
    indirect=["folder"],
)
def test_a_manifest_that_tells_of_another_bottleneck_is_damage(folder, change):
    raw = json.loads((folder / "manifest.json").read_text())
    raw["bottlenecks"]["1"].update(change)
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(DamagedData):
        opened(folder)


@pytest.mark.parametrize("cut", ["0", "2", "one"])
def test_a_bottleneck_at_no_cut_is_damage(folder, cut):
    raw = json.loads((folder / "manifest.json").read_text())
    raw["bottlenecks"] = {cut: raw["bottlenecks"]["1"]}
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(DamagedData, match="bottlenecks are for cut"):
        Artifact.open(folder)


# --- between nodes -----------------------------------------------------------------------------------------


@pytest.fixture
def halves(folder):
    """An edge that sends by its bottleneck, and its cloud."""
    cloud = CloudNode(CloudVersion(*opened(folder), 64))
    edge = EdgeNode(EdgeVersion(*opened(folder, 0, 1), WorkingUplink(cloud), LIMITS, 64))
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    yield edge, cloud
    for node in (edge, cloud):
        node.close()


async def test_the_cloud_goes_on_from_what_its_decoder_made(halves, folder):
    edge, cloud = halves
    artifact = Artifact.open(folder)
    manifest, network = artifact.manifest, artifact.network()
    codec, features = artifact.codec("bottleneck", 1), network.resume(IMAGES, 0, 1, NEVER).features
    received = codec.decode(codec.encode(features), MAP, 64)
    expected = network.resume(received, 1, 2, NEVER)
    answers = await edge.classify(IMAGES, rule=NEVER)
    np.testing.assert_array_equal([answer.label for answer in answers], expected.logits.argmax(1))
    resumed = await cloud.resume(manifest.content_hash, 1, codec.encode(features), NEVER)
    np.testing.assert_array_equal(resumed.logits, expected.logits)


async def test_a_cloud_with_another_bottleneck_refuses_and_the_edge_answers(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    codec = made(seed=1)
    save_artifact(other, random_network(), LENET, NEVER).add_bottleneck(1, codec.halves, codec.tables)
    cloud = CloudNode(CloudVersion(*opened(other), 64))
    edge = EdgeNode(EdgeVersion(*opened(folder, 0, 1), WorkingUplink(cloud), LIMITS, 64))
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    try:
        answers = await edge.classify(pictures(LENET, 2), rule=NEVER)
    finally:
        edge.close()
        cloud.close()
    assert {answer.place for answer in answers} == {Place.FALLBACK}
    assert all("other weights" in answer.fallback_reason for answer in answers)


async def test_an_edge_whose_cloud_is_away_answers_itself(folder):
    edge = EdgeNode(EdgeVersion(*opened(folder, 0, 1), FailingUplink(Unavailable("away")), LIMITS, 64))
    edge.adopt(Plan(1, NEVER, codec="bottleneck"))
    try:
        answers = await edge.classify(IMAGES, rule=NEVER)
    finally:
        edge.close()
    assert {answer.place for answer in answers} == {Place.FALLBACK}


async def test_a_cloud_refuses_garbage_in_the_name_of_its_bottleneck(halves, folder):
    _, cloud = halves
    manifest = Artifact.open(folder).manifest
    for data in (b"", bytes(4), bytes(range(40)), bytes(10_000)):
        with pytest.raises(InvalidInput):
            await cloud.resume(manifest.content_hash, 1, Payload("bottleneck", 1, (1, *MAP), data), NEVER)
