"""The table of codecs says what really happens to a network whose maps go through them."""

import numpy as np
import pytest
from network_examples import LENET, mixing_rule, pictures, random_network, save_artifact
from test_bottleneck import made as made_bottleneck

from branchynet.codecs import FixedRanges, named_codec
from branchynet.codecs.bottleneck import ConvolutionShape
from branchynet.data.datasets import Dataset
from branchynet.errors import InvalidInput
from branchynet.evaluation.codec_study import (
    FOR_IMAGES,
    FOR_MAPS,
    calibrated_ranges,
    outcomes_through,
    study_codecs,
)
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.outcomes import OutcomeTable
from branchynet.models.architectures import Architecture


def labelled(images):
    labels = np.arange(len(images)) % 10
    return Dataset("pictures", images, labels, tuple(map(str, range(10))), "test", "made here")


DATA = labelled(pictures(LENET, 60))


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    network = random_network()
    ranges = calibrated_ranges(network, DATA)
    artifact = save_artifact(tmp_path_factory.mktemp("lenet"), network, LENET, mixing_rule(network, DATA.images))
    artifact = artifact.with_fields(codec_ranges=ranges)
    table, told = measure_outcomes(network, artifact.manifest.cost, DATA), []
    return artifact, table, list(study_codecs(artifact, network, table, DATA, told.append)), told


def test_every_codec_is_tried_at_every_cut_it_is_for(studied):
    _, _, cuts, told = studied
    for_maps = [name for name in FOR_MAPS if name != "bottleneck"]
    assert [[row.codec for row in rows] for rows in cuts] == [list(FOR_IMAGES), for_maps]
    assert [{row.cut for row in rows} for rows in cuts] == [{0}, {1}]
    assert told == [60, 60]
    assert all(min(row.encode_us, row.decode_us, row.copy_us) > 0 for rows in cuts for row in rows)


def test_lossless_codecs_change_no_answer(studied):
    artifact, table, cuts, _ = studied
    manifest = artifact.manifest
    expected = table.apply(manifest.rule).accuracy
    for rows in cuts:
        for row in rows:
            if named_codec(row.codec, manifest.codec_ranges[1]).lossless:
                assert row.accuracy == expected
                assert row.final_accuracy == table.correct[-1].mean()


@pytest.mark.parametrize("name", ["uint4", "uint8+zstd", "uint4-calibrated+zstd"])
def test_a_row_is_what_encoding_decoding_and_going_on_gives(studied, name):
    artifact, table, cuts, _ = studied
    manifest = artifact.manifest
    network = random_network()
    maps = network.run(0, DATA.images)[0]
    codec = named_codec(name, manifest.codec_ranges[1])
    payloads = [codec.encode(sample[None]) for sample in maps]
    decoded = np.concatenate([codec.decode(payload, maps.shape[1:], 1) for payload in payloads])
    final = network.run(1, decoded)[1]
    seen = OutcomeTable(np.stack([table.logits[0], final]), table.labels, table.costs)
    row = next(row for row in cuts[1] if row.codec == name)
    assert row.accuracy == seen.apply(manifest.rule).accuracy
    assert row.final_accuracy == np.mean(final.argmax(1) == DATA.labels)
    offloaded = table.exit_of(manifest.rule) == 1
    assert row.offloaded == offloaded.mean()
    sizes = np.array([len(payload.data) for payload in payloads])
    assert row.payload_bytes == pytest.approx(sizes[offloaded].mean())
    assert row.mean_bytes == pytest.approx(sizes[offloaded].sum() / len(sizes))


def test_everything_is_offloaded_at_cut_0(studied):
    assert {row.offloaded for row in studied[2][0]} == {1.0}
    assert studied[2][0][0].payload_bytes == 28 * 28


def test_calibrated_codecs_need_ranges(studied):
    artifact, table, _, _ = studied
    plain = artifact.with_fields(codec_ranges={})
    cuts = list(study_codecs(plain, random_network(), table, DATA))
    assert [row.codec for row in cuts[1]] == [
        name for name in FOR_MAPS if "calibrated" not in name and name != "bottleneck"
    ]


def test_ranges_are_those_of_the_maps_at_each_cut():
    architecture = Architecture("b-alexnet")
    network, data = random_network(architecture), labelled(pictures(architecture, 8))
    ranges = calibrated_ranges(network, data)
    x = data.images
    for cut in (1, 2):
        x, _ = network.run(cut - 1, x)
        assert ranges[cut] == FixedRanges.calibrated(x)
    assert set(ranges) == {1, 2}


def test_names_give_the_codecs_for_what_there_is_at_the_cut(studied, tmp_path):
    artifact = studied[0]
    names = ["webp", "uint8", "uint4-calibrated"]
    assert [codec.name for codec in artifact.codecs_at(0, names)] == ["webp"]
    assert [codec.name for codec in artifact.codecs_at(1, names)] == ["uint8", "uint4-calibrated"]
    without = artifact.with_fields(codec_ranges={})
    assert [codec.name for codec in without.codecs_at(1, names)] == ["uint8"]
    assert artifact.codecs_at(1, ["bottleneck"]) == artifact.codecs_at(0, ["bottleneck"]) == []
    trained = made_bottleneck(ConvolutionShape(map_shape=artifact.manifest.cut_shapes[1], channels=2, levels=4))
    learned = artifact.save(tmp_path).add_bottleneck(1, trained.halves, trained.tables)
    assert learned.codecs_at(1, ["bottleneck", "raw+zstd"]) == [learned.bottleneck(1)]
    assert learned.codecs_at(0, ["bottleneck", "raw+zstd"]) == [named_codec("raw+zstd")]
    with pytest.raises(InvalidInput, match="'uint3'"):
        artifact.codecs_at(1, ["uint3"])


def test_exits_before_a_cut_say_what_they_said(studied):
    artifact, table, _, _ = studied
    codecs = artifact.codecs_at(1, ["uint4", "fp32+zstd"])
    lossy, lossless = outcomes_through(random_network(), table, DATA, 1, codecs)
    assert np.array_equal(lossy.table.logits[0], table.logits[0])
    assert not np.array_equal(lossy.table.logits[1], table.logits[1])
    assert np.array_equal(lossless.table.logits, table.logits)
    assert lossy.payload_bytes.shape == (len(DATA),)
