"""A bottleneck learns to answer as the uncut network, which stays itself; stopped, it goes on to the same weights."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from network_examples import LENET, pictures, random_network
from test_codec_study import labelled

from branchynet.codecs import BottleneckCodec
from branchynet.errors import DamagedData, InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.models.architectures import Architecture
from branchynet.training.bottleneck import FrozenNetwork, macs_of, train_bottleneck
from branchynet.training.bottleneck_recipes import BottleneckRecipe, bottleneck_recipe

RECIPE = BottleneckRecipe(
    cut=1, channels=3, levels=4, stride=2, width=6, passes=1, epochs=2, batch_size=16, easy=1.0, augmentation="affine"
)
TRANSFORM = dataclasses.replace(RECIPE, form="transform", kept=128, levels=7, side=8, step=0.5, learning_rate=0.02)
TRAINING, HELD_OUT = labelled(pictures(LENET, 48)), labelled(pictures(LENET, 20, seed=1))
NEVER = ExitRule.never(2)


class Stopped(Exception):
    pass


def frozen(network, rule=NEVER, cut=1):
    return FrozenNetwork(network, network.part(cut, network.total_stages).eval(), rule)


def train(folder, recipe=RECIPE, rule=NEVER, **more):
    return train_bottleneck(recipe, frozen(random_network(), rule), (TRAINING, HELD_OUT), folder, **more)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What a training that nothing stopped makes, its folder, and its epochs."""
    folder, epochs = tmp_path_factory.mktemp("straight"), []
    return train(folder, on_epoch=epochs.append), folder, epochs


@pytest.fixture(scope="module", params=[RECIPE, TRANSFORM], ids=["convolution", "transform"])
def either(request):
    """A recipe of each form."""
    return request.param


def same(first, second):
    weights = [trained[0].state_dict() for trained in (first, second)]
    return np.array_equal(first[1].frequencies, second[1].frequencies) and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )


def test_a_transform_goes_on_to_the_same_weights_too(tmp_path):
    def stop(done):
        raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "stopped", TRANSFORM, on_epoch=stop)
    assert same(train(tmp_path / "stopped", TRANSFORM), train(tmp_path / "straight", TRANSFORM))


def test_a_transform_begins_where_convolutions_have_yet_to_come(tmp_path):
    first = {}
    for recipe in (RECIPE, TRANSFORM):
        epochs = []
        train(tmp_path / recipe.form, recipe, on_epoch=epochs.append)
        first[recipe.form] = epochs[0].divergence
    assert first["transform"] < 0.5 * first["convolution"]


@pytest.mark.parametrize("call", [0, 3, 4, 6])
def test_a_stopped_training_goes_on_to_the_same_weights(straight, tmp_path, call):
    def stop(done, total, what):
        assert 0 < done <= total
        calls.append(what)
        if len(calls) == call + 1:
            raise Stopped

    calls = []
    with pytest.raises(Stopped):
        train(tmp_path, on_step=stop)
    torch.manual_seed(12345)  # nothing may hang on what the process did before
    assert same(train(tmp_path), straight[0])


def test_the_network_around_it_is_left_as_it_was(straight):
    before = {name: tensor.clone() for name, tensor in random_network().state_dict().items()}
    assert all(torch.equal(random_network().state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(parameter.grad is not None for parameter in random_network().parameters())


@pytest.mark.parametrize(("optimiser", "learning_rate"), [("adam", 0.01), ("muon", 0.05)])
def test_it_learns_to_answer_as_the_uncut_network(tmp_path, either, optimiser, learning_rate):
    epochs = []
    recipe = dataclasses.replace(either, epochs=12, optimiser=optimiser, learning_rate=learning_rate, rate=0.0)
    train(tmp_path, recipe, on_epoch=epochs.append)
    assert epochs[-1].divergence < 0.5 * epochs[0].divergence


def test_a_price_on_bits_saves_some(tmp_path, either):
    bits = []
    for rate in (0.0, 60.0):
        epochs = []
        recipe = dataclasses.replace(either, epochs=6, rate=rate)
        train(tmp_path / str(rate), recipe, on_epoch=epochs.append)
        bits.append(epochs[-1].bits)
    assert bits[1] < 0.9 * bits[0]


def test_the_log_says_what_each_epoch_came_to(straight):
    _, folder, epochs = straight
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["divergence"], row["bits"]) for row in logged] == [
        (done.epoch, done.divergence, done.bits) for done in epochs
    ]
    assert [done.epoch for done in epochs] == [0, 1]


def test_only_offloaded_samples_and_a_share_of_the_others_are_learnt_from(tmp_path):
    network = random_network()
    scores = ExitRule("entropy", (0.0,)).score(0, network.run(0, TRAINING.images)[1])
    half = ExitRule("entropy", (float(np.median(scores)),))
    seen = []
    for easy in (0.0, 1.0):
        steps = []
        recipe = dataclasses.replace(RECIPE, easy=easy, augmentation="none", epochs=1, batch_size=1)
        train(
            tmp_path / str(easy),
            recipe,
            half,
            on_step=lambda done, total, what, steps=steps: steps.append((total, what)),
        )
        seen.append(max(total for total, what in steps if what.startswith("divergence")))
    assert seen == [24, 48]


def test_a_training_may_go_on_from_what_there_is(straight, tmp_path):
    bottleneck, tables = straight[0]
    start = BottleneckCodec(bottleneck.shape, bottleneck, tables, "a digest")
    epochs = []
    went_on = train(tmp_path, on_epoch=epochs.append, start=start)
    assert epochs[0].divergence < straight[2][0].divergence
    assert not same(went_on, straight[0])
    with pytest.raises(InvalidInput, match="start: 'a digest' there, '' asked"):
        train(tmp_path)
    with pytest.raises(InvalidInput, match="the artifact's bottleneck is"):
        train(tmp_path / "other", dataclasses.replace(RECIPE, channels=4), start=start)


@pytest.mark.parametrize("change", [{"channels": 4}, {"rate": 0.2}, {"seed": 1}])
def test_a_checkpoint_of_another_recipe_is_refused(straight, tmp_path, change):
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    with pytest.raises(InvalidInput, match=f"belongs to another recipe.*{next(iter(change))}"):
        train(tmp_path, dataclasses.replace(RECIPE, **change))


def test_a_checkpoint_that_is_none_is_damage(tmp_path):
    (tmp_path / "bottleneck.pt").write_bytes(b"no checkpoint")
    with pytest.raises(DamagedData, match="delete it"):
        train(tmp_path)


@pytest.mark.parametrize("cut", [0, 2])
def test_a_cut_with_nothing_before_or_behind_it_is_refused(tmp_path, cut):
    with pytest.raises(InvalidInput, match=f"cut is {cut}"):
        train(tmp_path, dataclasses.replace(RECIPE, cut=cut))


@pytest.mark.parametrize(
    "change",
    [
        {"passes": 0},
        {"epochs": 0},
        {"easy": 1.5},
        {"rate": -1.0},
        {"fidelity": -1.0},
        {"optimiser": "sgd"},
        {"form": "wavelet"},
        {"step": 0.0},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change):
    with pytest.raises(InvalidInput, match=next(iter(change))):
        dataclasses.replace(RECIPE, **change)


def test_an_unknown_artifact_gets_a_start_and_its_own_augmentation(loaded):
    manifest = dataclasses.replace(loaded(LENET)[0].manifest, training={"recipe": {"augmentation": "crop-flip"}})
    recipe = bottleneck_recipe(manifest, 1)
    assert (recipe.cut, recipe.augmentation) == (1, "crop-flip")
    assert bottleneck_recipe(dataclasses.replace(manifest, training={}), 1).augmentation == "none"


def test_macs_are_counted_by_hand():
    shape = RECIPE.shape_for((5, 15, 15), positive=True)
    assert macs_of(shape) == (8 * 8 * 3 * 5 * 9, 8 * 8 * 3 * 6 * 9 + 15 * 15 * 6 * 5 * 9)
    # Columns, rows, channels: 15 of each map's columns become 8, then its rows, then five channels are mixed.
    linear = 5 * 15 * 15 * 8 + 5 * 8 * 15 * 8 + 8 * 8 * 5 * 5
    refining = 15 * 15 * 9 * (5 * 6 + 6 * 5)
    assert macs_of(TRANSFORM.shape_for((5, 15, 15), positive=True)) == (linear, linear + refining)


def test_every_exit_behind_the_cut_counts(tmp_path):
    architecture = Architecture("b-alexnet")
    recipe = dataclasses.replace(RECIPE, stride=1, epochs=1)
    data = labelled(pictures(architecture, 16))
    around = frozen(random_network(architecture), ExitRule.never(3))
    bottleneck, tables = train_bottleneck(recipe, around, (data, data), tmp_path)
    assert bottleneck.shape.map_shape == random_network(architecture).run(0, data.images)[0].shape[1:]
    assert tables.places == bottleneck.shape.places
