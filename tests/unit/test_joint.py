"""Training: the loss by its formula, what each phase may touch, and the same weights however often it was stopped."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_examples import LENET, normalisation_for, quadrants, some

from branchynet.errors import DamagedData, InvalidInput
from branchynet.models import Architecture, build
from branchynet.training import joint
from branchynet.training.datasets import Dataset, split_calibration
from branchynet.training.joint import PHASES, check_data, exit_accuracies, joint_loss, measure_normalisation, train
from branchynet.training.recipes import Recipe

FOUR = Architecture("b-lenet", classes=4)
RECIPE = Recipe(
    FOUR,
    "mnist",
    trunk_epochs=2,
    joint_epochs=2,
    batch_size=8,
    exit_weights=(1.0, 1.0),
    learning_rate=3e-3,
    augmentation="affine",
    calibration_images=4,
)
DATA = quadrants(6)
HELD_OUT = quadrants(10, seed=99)


class Stopped(Exception):
    """Thrown out of a training on purpose."""


def stop_at(number):
    """A callback that stops training at its *number*-th call."""
    calls = iter(range(10**6))

    def on_step(_):
        if next(calls) == number:
            raise Stopped

    return on_step


def weights(trained):
    """All weights of the network and of its baseline."""
    return {**trained.network.state_dict(), **{f"baseline {name}": w for name, w in trained.baseline.items()}}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing stopped: its result, its folder, and every step it reported."""
    folder, steps = tmp_path_factory.mktemp("straight"), []
    return train(RECIPE, DATA, HELD_OUT, folder, steps.append), folder, steps


# --- the loss ---------------------------------------------------------------------------------------------


def by_hand(logits, labels, recipe):
    """The joint loss with Python's own floats, from its definition."""
    classes = len(logits[0][0])
    probabilities = []
    for scored in logits:
        exponentials = [[math.exp(value) for value in row] for row in scored]
        probabilities.append([[value / sum(row) for value in row] for row in exponentials])
    total = 0.0
    for number, weight in enumerate(recipe.exit_weights):
        loss = 0.0
        for p, teacher, label in zip(probabilities[number], probabilities[-1], labels, strict=True):
            for index in range(classes):
                target = recipe.label_smoothing / classes + (1 - recipe.label_smoothing) * (index == label)
                loss -= target * math.log(p[index])
                if number < len(logits) - 1:
                    loss += recipe.distillation * teacher[index] * math.log(teacher[index] / p[index])
        total += weight * loss / len(labels)
    return total


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 5),
    exit_weights=st.lists(st.floats(0, 2), min_size=1, max_size=3),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    distillation=st.sampled_from([0.0, 0.5]),
)
@some
def test_the_joint_loss_is_its_formula(seed, batch, exit_weights, label_smoothing, distillation):
    recipe = dataclasses.replace(
        RECIPE, exit_weights=tuple(exit_weights), label_smoothing=label_smoothing, distillation=distillation
    )
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(batch, 4, generator=generator) for _ in exit_weights]
    labels = torch.randint(0, 4, (batch,), generator=generator)
    expected = by_hand([scored.tolist() for scored in logits], labels.tolist(), recipe)
    assert float(joint_loss(logits, labels, recipe)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_weights_that_do_not_fit_the_exits_have_no_loss():
    with pytest.raises(ValueError, match="zip"):
        joint_loss([torch.zeros(1, 4)], torch.zeros(1, dtype=torch.int64), RECIPE)


def test_the_final_exit_teaches_without_learning_from_the_branches():
    teaching = dataclasses.replace(RECIPE, distillation=5.0)
    gradients = []
    for recipe in (RECIPE, teaching):
        logits = [torch.tensor([[1.0, 2, 3, 4]]).requires_grad_(), torch.tensor([[4.0, 3, 2, 1]]).requires_grad_()]
        joint_loss(logits, torch.tensor([0]), recipe).backward()
        gradients.append([scored.grad for scored in logits])
    assert not torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


# --- phases -----------------------------------------------------------------------------------------------


def test_a_few_epochs_learn_the_quadrants_at_every_exit(straight):
    trained, _, _ = straight
    assert min(exit_accuracies(trained.network, HELD_OUT)) > 0.9
    assert not trained.network.training
    trunk = build(FOUR, trained.network.normalisation).eval()
    trunk.load_state_dict(trained.baseline, strict=False)
    with torch.inference_mode():
        logits = trunk.trunk(trunk.normalisation(torch.from_numpy(HELD_OUT.images)))
    assert (logits.argmax(1).numpy() == HELD_OUT.labels).mean() > 0.9


def test_exit_accuracies_are_those_of_each_exit_alone(straight):
    network = straight[0].network
    with torch.inference_mode():
        logits = network(network.normalisation(torch.from_numpy(HELD_OUT.images)))
    expected = tuple(float((scored.argmax(1).numpy() == HELD_OUT.labels).mean()) for scored in logits)
    assert exit_accuracies(network, HELD_OUT, batch_size=7) == pytest.approx(expected)


def states_after_each_step(folder, recipe=RECIPE):
    """(step, weights) after every optimiser step of a training."""
    states, networks = [], []
    original = joint.build

    def remembered(*args):
        networks.append(original(*args))
        states.append((None, {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}))
        return networks[0]

    def on_step(step):
        if step.accuracies is None:
            states.append((step, {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "build", remembered)
        train(recipe, DATA, HELD_OUT, folder, on_step)
    return states


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
def test_trunk_and_baseline_phases_leave_the_branches_untouched(tmp_path, optimiser):
    recipe = dataclasses.replace(RECIPE, optimiser=optimiser, weight_decay=0.1, learning_rate=1e-3)
    states = states_after_each_step(tmp_path, recipe)
    fresh = states[0][1]
    branch = [name for name in fresh if name.startswith("stages.0.head.")]
    assert branch
    for step, state in states[1:]:
        untouched = [torch.equal(state[name], fresh[name]) for name in branch]
        assert all(untouched) if step.phase != "joint" else not any(untouched)


def test_joint_and_baseline_both_start_from_the_trunks_weights(tmp_path):
    states = states_after_each_step(tmp_path, dataclasses.replace(RECIPE, optimiser="sgd", learning_rate=1e-9))
    # Steps this small move nothing visibly, so only what a phase was loaded with shows.
    last = {step.phase: state for step, state in states[1:]}
    for name, tensor in last["trunk"].items():
        torch.testing.assert_close(last["joint"][name], tensor, rtol=0, atol=1e-6)
        torch.testing.assert_close(last["baseline"][name], tensor, rtol=0, atol=1e-6)


def test_the_baseline_had_as_many_epochs_as_the_network_and_differs_from_it(straight):
    trained, _, steps = straight
    counted = {phase: sum(step.phase == phase and step.accuracies is None for step in steps) for phase in PHASES}
    assert counted == {"trunk": 6, "joint": 6, "baseline": 6}
    state = trained.network.state_dict()
    assert set(trained.baseline) == {name for name in state if not name.startswith("stages.0.head.")}
    assert not any(torch.equal(trained.baseline[name], state[name]) for name in trained.baseline)


def test_steps_are_reported_in_order(straight):
    reported = [(s.phase, s.epoch, s.accuracies is not None, s.step) for s in straight[2]]
    expected = [
        entry
        for phase in PHASES
        for epoch in (0, 1)
        for entry in [*((phase, epoch, False, step) for step in (1, 2, 3)), (phase, epoch, True, 1)]
    ]
    assert reported == expected


def test_learning_rates_follow_the_schedule_within_each_phase(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda self, progress: asked.append(progress) or 1e-3)
    train(RECIPE, DATA, HELD_OUT, tmp_path)
    assert asked == pytest.approx([step / 6 for step in range(6)] * 3)


# --- stopping and going on --------------------------------------------------------------------------------

# A run reports 3 epochs ends and steps in turn: 4 calls an epoch, 6 epochs.
EPOCH_ENDS = [4 * epoch + 3 for epoch in range(6)]
EPOCH_STARTS = [4 * epoch for epoch in range(1, 6)]


@pytest.mark.parametrize("call", [1, *EPOCH_ENDS, *EPOCH_STARTS])
def test_a_stopped_run_goes_on_to_the_same_weights(straight, tmp_path, call):
    with pytest.raises(Stopped):
        train(RECIPE, DATA, HELD_OUT, tmp_path, stop_at(call))
    torch.manual_seed(12345)  # nothing may hang on what the process did before
    assert equal(weights(train(RECIPE, DATA, HELD_OUT, tmp_path)), weights(straight[0]))


def test_a_run_stopped_again_and_again_ends_at_the_same_weights(straight, tmp_path):
    for _ in range(6):
        with pytest.raises(Stopped):
            train(RECIPE, DATA, HELD_OUT, tmp_path, stop_at(4))
    assert equal(weights(train(RECIPE, DATA, HELD_OUT, tmp_path)), weights(straight[0]))


def test_a_finished_run_gives_its_result_again_without_a_step(straight):
    trained, folder, _ = straight
    again = train(RECIPE, DATA, HELD_OUT, folder, stop_at(0))
    assert equal(weights(again), weights(trained))


def test_another_seed_gives_other_weights(straight, tmp_path):
    other = train(dataclasses.replace(RECIPE, seed=1), DATA, HELD_OUT, tmp_path)
    assert not equal(weights(other), weights(straight[0]))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"joint_epochs": 3}, {"architecture": Architecture("b-lenet", "code", 4)}]
)
def test_a_checkpoint_of_another_recipe_is_refused_with_the_difference(straight, change):
    with pytest.raises(InvalidInput, match=f"another recipe .*{next(iter(change))}"):
        train(dataclasses.replace(RECIPE, **change), DATA, HELD_OUT, straight[1])


@pytest.mark.parametrize("damage", [lambda blob: blob[: len(blob) // 2], lambda _: b"", lambda _: b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(straight, tmp_path, damage):
    blob = (straight[1] / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(damage(blob))
    with pytest.raises(DamagedData, match=r"checkpoint\.pt"):
        train(RECIPE, DATA, HELD_OUT, tmp_path)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_log_has_one_json_line_an_epoch(straight):
    _, folder, steps = straight
    records = read_log(folder)
    assert [(r["phase"], r["epoch"], r["epochs"]) for r in records] == [(p, e, 2) for p in PHASES for e in (1, 2)]
    ends = [step for step in steps if step.accuracies is not None]
    for record, end in zip(records, ends, strict=True):
        assert record["loss"] == pytest.approx(end.loss, abs=1e-5)
        assert record["held_out_accuracy_by_exit"] == pytest.approx(end.accuracies, abs=1e-5)
        assert record["seconds"] >= 0


def test_the_log_of_a_stopped_run_repeats_no_epoch(tmp_path):
    for call in (5, 7, 9):
        with pytest.raises(Stopped):
            train(RECIPE, DATA, HELD_OUT, tmp_path, stop_at(call))
    train(RECIPE, DATA, HELD_OUT, tmp_path)
    assert [(r["phase"], r["epoch"]) for r in read_log(tmp_path)] == [(p, e) for p in PHASES for e in (1, 2)]


def deep(name, **kwargs):
    weights = (1.0, 1.0, 1.0)
    defaults = {"trunk_epochs": 1, "joint_epochs": 1, "batch_size": 4, "exit_weights": weights, "learning_rate": 1e-3}
    return Recipe(Architecture(name, "paper", 2), "cifar10", calibration_images=2, **{**defaults, **kwargs})


def coloured(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    return Dataset("noise", images, np.arange(count) % 2, ("a", "b"), "train", "made by a test")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropout_and_both_precisions_survive_a_stop(tmp_path, precision):
    recipe = deep("b-alexnet", precision=precision, trunk_epochs=2, optimiser="sgd", augmentation="crop-flip")
    whole = train(recipe, coloured(8), coloured(2), tmp_path / "whole")
    for call in (4, 8):
        folder = tmp_path / str(call)
        with pytest.raises(Stopped):
            train(recipe, coloured(8), coloured(2), folder, stop_at(call))
        assert equal(weights(train(recipe, coloured(8), coloured(2), folder)), weights(whole))
    for tensor in weights(whole).values():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()


def test_batch_normalisation_survives_a_stop(tmp_path):
    recipe = deep("b-resnet-110", precision="bf16")
    whole = train(recipe, coloured(4), coloured(2), tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, coloured(4), coloured(2), tmp_path / "stopped", stop_at(2))
    resumed = train(recipe, coloured(4), coloured(2), tmp_path / "stopped")
    assert equal(weights(resumed), weights(whole))
    assert any(name.endswith("running_var") for name in whole.baseline)


# --- data -------------------------------------------------------------------------------------------------


def test_calibration_images_are_never_trained_on(tmp_path, monkeypatch):
    training, calibration = split_calibration(quadrants(8), 12, seed=3)
    seen = set()

    def watched(images, recipe, generator):
        seen.update(image.numpy().tobytes() for image in images)
        return images

    monkeypatch.setattr(joint, "_augment", watched)
    train(RECIPE, training, calibration, tmp_path)
    assert seen == {image.tobytes() for image in training.images}
    assert not seen & {image.tobytes() for image in calibration.images}


def test_normalisation_is_measured_per_channel():
    images = np.zeros((2, 2, 1, 2), dtype=np.uint8)
    images[:, 0, 0] = [[0, 255], [255, 0]]
    images[:, 1, 0] = [[51, 51], [102, 102]]
    dataset = Dataset("made", images, np.array([0, 1]), ("a", "b"), "train", "a test")
    measured = measure_normalisation(dataset)
    assert measured.mean == pytest.approx((0.5, 0.3))
    assert measured.std == pytest.approx((0.5, 0.1))
    assert all(type(value) is float for value in (*measured.mean, *measured.std))


def altered(**changes):
    return dataclasses.replace(DATA, **changes)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        (altered(images=np.zeros((24, 1, 32, 32), np.uint8)), r"\(1, 32, 32\).*\(1, 28, 28\)"),
        (altered(images=np.zeros((24, 3, 28, 28), np.uint8)), r"\(3, 28, 28\).*\(1, 28, 28\)"),
        (altered(labels=DATA.labels % 3), r"no training image is of class \[3\]"),
        (altered(labels=np.arange(24) % 6, classes=tuple("abcdef")), r"labels \[4, 5\] exceed the 4 classes"),
        (altered(images=np.full_like(DATA.images, 7)), "constant"),
        (altered(images=DATA.images // 255), "constant"),
    ],
)
def test_data_that_would_silently_ruin_a_run_are_refused(dataset, complaint, tmp_path):
    with pytest.raises(InvalidInput, match=complaint):
        check_data(dataset, RECIPE)
    with pytest.raises(InvalidInput, match=complaint):
        train(RECIPE, dataset, HELD_OUT, tmp_path)


@pytest.mark.parametrize("exit_weights", [(1.0,), (1.0, 1.0, 1.0)])
def test_a_wrong_number_of_exit_weights_is_refused(exit_weights, tmp_path):
    with pytest.raises(InvalidInput, match=f"{len(exit_weights)} exit weights for 2 exits"):
        train(dataclasses.replace(RECIPE, exit_weights=exit_weights), DATA, HELD_OUT, tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_kept(tmp_path):
    wild = dataclasses.replace(RECIPE, optimiser="sgd", learning_rate=1e30)
    with pytest.raises(DamagedData, match=r"the loss is (nan|inf) at trunk epoch \d step \d; lower the learning rate"):
        train(wild, DATA, HELD_OUT, tmp_path)


def test_a_first_loss_far_above_chance_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(joint, "measure_normalisation", lambda _: normalisation_for(LENET).__class__((0.0,), (1e-4,)))
    with pytest.raises(DamagedData, match=r"fresh weights should give about 1\.39"):
        train(RECIPE, DATA, HELD_OUT, tmp_path)


def test_fewer_images_than_a_batch_still_make_a_step(tmp_path):
    steps = []
    train(dataclasses.replace(RECIPE, batch_size=1000), quadrants(1), HELD_OUT, tmp_path, steps.append)
    assert {step.steps for step in steps} == {1}
    assert all(math.isfinite(step.loss) for step in steps)
