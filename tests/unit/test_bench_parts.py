"""What a bench sends, and how its histogram is drawn."""

from dataclasses import replace

import numpy as np
import pytest
from picture_folders import write_classes

from branchynet.client import cloud
from branchynet.client.find_node import Node, Role, WireProtocol
from branchynet.data.datasets import load_sample, name_of
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.rpc import messages
from cli.commands.bench import RANDOM_IMAGES, _images
from cli.tables.requests import histogram_lines
from orchestrator.runs.bench import BenchLoad
from protos import split_inference_pb2 as pb
from simulations.model.scenario import Arrivals

SAMPLE = load_sample()
NODE = Node("a:1", Role.EDGE, WireProtocol.BRANCHYNET, "m", "0" * 64, (1, 28, 28), SAMPLE.classes, 16)
DIGITS = tuple("0123456789")


def test_the_sample_is_sent_with_its_labels_to_a_node_of_its_classes():
    sent = _images(NODE, None, 0, random=False)
    assert sent.labelled
    np.testing.assert_array_equal(sent.labels, SAMPLE.labels)
    np.testing.assert_array_equal(sent.images, SAMPLE.images)


def test_the_sample_has_no_labels_for_a_node_of_other_classes():
    sent = _images(replace(NODE, labels=DIGITS), None, 0, random=False)
    assert not sent.labelled
    np.testing.assert_array_equal(sent.images, SAMPLE.images)


@pytest.mark.parametrize(("shape", "random"), [((3, 32, 32), False), ((1, 28, 28), True)])
def test_random_pixels_have_the_shape_that_the_node_takes(shape, random):
    sent = _images(replace(NODE, input_shape=shape), None, 7, random=random)
    assert (sent.images.dtype, sent.images.shape) == (np.uint8, (RANDOM_IMAGES, *shape))
    assert (sent.labelled, sent.source) == (False, "random pixels")
    np.testing.assert_array_equal(sent.images, _images(replace(NODE, input_shape=shape), None, 7, random=True).images)


def test_data_of_unknown_classes_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="holds no pictures; looked for class folders"):
        _images(replace(NODE, labels=("x",)), tmp_path, 0, random=False)


def test_pictures_are_sent_as_the_node_wants_them_with_the_labels_that_it_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_classes(tmp_path / "photos", 0, 4)
    padded = Preprocessing("pad", ground=(255, 0, 0))
    node = replace(NODE, labels=("boot", "bag", "shirt"), input_shape=(3, 28, 14), preprocessing=padded)
    sent = _images(node, folder, 0, random=False)
    assert [(node.labels[label], sent.images[row, :, 0, 0].tolist()) for row, label in enumerate(sent.labels)] == [
        (name, [255, 0, 0]) for name in ("bag", "boot", "shirt") for _ in range(4)
    ]
    unknown = _images(replace(node, labels=("cat", "dog")), folder, 0, random=False)
    assert not unknown.labelled
    np.testing.assert_array_equal(unknown.images, sent.images)


def test_a_data_set_is_known_by_its_classes():
    assert [name_of(classes) for classes in (SAMPLE.classes, DIGITS, DIGITS[::-1])] == ["fashion-mnist", "mnist", None]


@pytest.mark.parametrize("arrivals", list(Arrivals))
def test_an_open_loop_keeps_to_its_time_and_its_count(arrivals):
    load = BenchLoad(rate_per_s=50, seconds=4.0, arrivals=arrivals)
    (lane,) = load.lanes(100)
    dues_s = [request.due_s for request in lane.requests]
    assert 150 < len(dues_s) < 250
    assert 3.5 < dues_s[-1] < 4.0
    (lane,) = replace(load, requests=9).lanes(100)
    assert len(list(lane.requests)) == 9


def test_bars_are_as_long_as_their_counts_and_none_vanishes():
    lines = histogram_lines([(1.0, 2.0, 1), (2.0, 4.0, 1_000), (4.0, 8.0, 0), (8.0, 1_600.0, 500)])
    assert [line.count("█") for line in lines] == [1, 44, 0, 22]
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["1", "1,000", "0", "500"]
    assert histogram_lines([]) == []


def test_a_cloud_that_answers_for_other_images_is_refused():
    logits = messages.tensor_from_array(np.zeros((2, 10), np.float32))
    reply = pb.ResumeReply(exits=[0, 1], logits=logits)
    rule = ExitRule(Criterion.ENTROPY, (0.3,))
    assert len(cloud._predictions(reply, rule, 2, 900, 3.0)) == 2
    with pytest.raises(InvalidInput, match="2 exits and 2 rows of logits came for 3 images"):
        cloud._predictions(reply, rule, 3, 900, 3.0)
