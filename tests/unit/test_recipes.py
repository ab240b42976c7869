"""Recipes are whole: right parts for their networks, legal values, a schedule of the promised shape."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import LENET, many

from branchynet.artifact import zoo
from branchynet.artifact.manifest import read_manifest
from branchynet.data.datasets import DATASETS
from branchynet.errors import InvalidInput, UnknownModel
from branchynet.models.architectures import cost
from branchynet.training.recipes import RECIPES, Recipe, named_recipe

every_recipe = pytest.mark.parametrize("name", RECIPES)
SMALL = Recipe(LENET, "mnist", trunk_epochs=1, joint_epochs=1, batch_size=8, exit_weights=(1.0, 1.0))
ONE_CYCLE = dataclasses.replace(SMALL, schedule="one-cycle", learning_rate=0.1)


@every_recipe
def test_a_named_recipe_fits_its_network_and_its_data(name):
    recipe = named_recipe(name)
    assert recipe is RECIPES[name]
    assert recipe.dataset in DATASETS
    assert len(recipe.exit_weights) == cost(recipe.architecture).exits
    channels = recipe.architecture.input_shape[0]
    assert channels == (3 if recipe.dataset == "cifar10" else 1)


@every_recipe
def test_a_recipe_is_plain_json(name):
    def back(value):
        return tuple(value) if isinstance(value, list) else value

    raw = json.loads(json.dumps(RECIPES[name].to_json(), allow_nan=False))
    architecture = type(LENET)(**raw.pop("architecture"))
    assert Recipe(architecture, **{key: back(value) for key, value in raw.items()}) == RECIPES[name]


def test_the_papers_recipes_are_those_of_its_scripts():
    for name, epochs, batch in (("lenet-mnist", 50, 512), ("alexnet-cifar10", 50, 512), ("resnet110-cifar10", 100, 64)):
        recipe = named_recipe(f"paper-{name}")
        assert recipe.architecture.variant == "code"
        assert (recipe.trunk_epochs, recipe.joint_epochs, recipe.batch_size) == (epochs, 100, batch)
        assert (recipe.optimiser, recipe.learning_rate, recipe.beta1) == ("adam", 1e-3, 0.99)
        assert (recipe.augmentation, recipe.schedule, recipe.distillation) == ("none", "constant", 0)
        assert set(recipe.exit_weights) == {1.0}


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UnknownModel, match="lenet-fashion, lenet-mnist"):
        named_recipe("lenet")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trunk_epochs", -1),
        *((field, value) for field in ("joint_epochs", "batch_size", "calibration_images") for value in (0, -1)),
        ("trunk_side", -1),
        ("averaging", -0.1),
        ("averaging", 1.0),
    ],
)
def test_a_number_out_of_its_range_is_refused(field, value):
    with pytest.raises(InvalidInput, match=f"{field} is {value}"):
        dataclasses.replace(SMALL, **{field: value})


@pytest.mark.parametrize("criterion", ["luck", "gate", "patience"])
def test_a_criterion_that_is_no_function_of_logits_alone_is_refused(criterion):
    with pytest.raises(InvalidInput, match=rf"criterion is '{criterion}'.*entropy"):
        dataclasses.replace(SMALL, criterion=criterion)


def test_branches_have_epochs_of_their_own_on_a_frozen_trunk_only():
    with pytest.raises(InvalidInput, match="branch_epochs is 3"):
        dataclasses.replace(SMALL, branch_epochs=3)
    frozen = dataclasses.replace(SMALL, frozen=True, branch_epochs=3)
    assert [frozen.epochs_of(phase) for phase in ("trunk", "joint", "baseline")] == [1, 3, 1]


def test_a_trunk_that_is_not_trained_cannot_be_the_baseline():
    with pytest.raises(InvalidInput, match="trunk_epochs is 0"):
        dataclasses.replace(SMALL, trunk_epochs=0, baseline="trunk")


def test_the_final_exit_of_a_frozen_trunk_is_no_baseline_of_its_own():
    with pytest.raises(InvalidInput, match="baseline cannot be 'final-exit'"):
        dataclasses.replace(SMALL, frozen=True, baseline="final-exit")


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf")])
def test_a_learning_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(InvalidInput, match="learning_rate"):
        dataclasses.replace(SMALL, learning_rate=rate)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_an_exit_weight_that_no_loss_can_have_is_refused(weight):
    with pytest.raises(InvalidInput, match="exit_weights"):
        dataclasses.replace(SMALL, exit_weights=(weight, 1.0))


KNOWN = {
    "optimiser": "adam, adamw, sgd, muon",
    "schedule": "constant",
    "trunk_schedule": "constant",
    "augmentation": "affine",
    "precision": "bf16",
    "baseline": "trained-on, trunk, final-exit",
}


@pytest.mark.parametrize("field", KNOWN)
@pytest.mark.parametrize("word", ["", "AdamW", "linear", None])
def test_a_word_that_no_part_of_training_knows_is_refused_with_those_it_knows(field, word):
    with pytest.raises(InvalidInput, match=f"{field} is {word!r}; it must be one of .*{KNOWN[field]}"):
        dataclasses.replace(SMALL, **{field: word})


@given(st.floats(0, 1))
@many
def test_a_constant_schedule_is_constant(progress):
    assert dataclasses.replace(SMALL, learning_rate=0.3).learning_rate_at(progress) == 0.3


def test_one_cycle_rises_for_a_fifth_and_falls_to_nothing():
    rates = np.array([ONE_CYCLE.learning_rate_at(progress) for progress in np.linspace(0, 1, 101)])
    assert rates[0] == pytest.approx(0.004)
    assert rates[10] == pytest.approx((0.004 + 0.1) / 2), "linear on the way up"
    assert rates[20] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.05), "half way down the cosine"
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[:21]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()


@given(st.floats(0, 1))
@many
def test_one_cycle_never_leaves_zero_to_its_peak(progress):
    assert 0 <= ONE_CYCLE.learning_rate_at(progress) <= 0.1 + 1e-12


def test_warm_up_and_decay_meet_at_the_full_rate():
    parts = dataclasses.replace(SMALL, learning_rate=0.1, trunk_schedule="warm-up", schedule="decay")
    rise = [parts.learning_rate_at(progress, "trunk") for progress in (0, 0.025, 0.05, 0.5, 1)]
    assert rise == pytest.approx([0.004, 0.052, 0.1, 0.1, 0.1])
    for phase in ("joint", "baseline"):
        fall = [parts.learning_rate_at(progress, phase) for progress in (0, 0.25, 1)]
        assert fall == pytest.approx([0.1, 0.075, 0])


@pytest.mark.parametrize("name", zoo.shipped())
def test_the_recipe_of_a_shipped_artifact_still_is_the_one_that_made_it(name):
    training = read_manifest(zoo.find(name)).training
    made_by, words = training["recipe"], training["command"].split()
    fewer = {
        key: int(words[words.index(option) + 1])
        for key, option in (("trunk_epochs", "--trunk-epochs"), ("joint_epochs", "--joint-epochs"))
        if option in words
    }
    today = json.loads(json.dumps(named_recipe(name).to_json())) | fewer
    assert {key: today[key] for key in made_by} == made_by
    # What older recipes do not name: one schedule served all phases then, and nothing else has another default.
    rest = {key: value for key, value in today.items() if key not in made_by}
    assert rest.pop("trunk_schedule", made_by["schedule"]) == made_by["schedule"]
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    assert rest == {key: defaults[key] for key in rest}
