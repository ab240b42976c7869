"""Training: the loss by its formula, what each phase may touch, and the same weights however often it was stopped."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_examples import HELD_OUT, TINY, TRAINING, quadrants, some

from branchynet.data.datasets import Dataset, split_calibration
from branchynet.errors import DamagedData, InvalidInput
from branchynet.models.architectures import build
from branchynet.network import runner
from branchynet.network.normalisation import Normalisation
from branchynet.training import trainer
from branchynet.training.losses import joint_loss
from branchynet.training.recipes import Recipe
from branchynet.training.trainer import PHASES, check_data, exit_accuracies, measure_normalisation, train

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
        TINY, exit_weights=tuple(exit_weights), label_smoothing=label_smoothing, distillation=distillation
    )
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(batch, 4, generator=generator) for _ in exit_weights]
    labels = torch.randint(0, 4, (batch,), generator=generator)
    expected = by_hand([scored.tolist() for scored in logits], labels.tolist(), recipe)
    assert float(joint_loss(logits, labels, recipe)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_weights_that_do_not_fit_the_exits_have_no_loss():
    with pytest.raises(ValueError, match="2 exit weights for 1 exits"):
        joint_loss([torch.zeros(1, 4)], torch.zeros(1, dtype=torch.int64), TINY)


def test_the_final_exit_teaches_without_learning_from_the_branches():
    teaching = dataclasses.replace(TINY, distillation=5.0)
    gradients = []
    for recipe in (TINY, teaching):
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
    trunk = build(TINY.architecture, trained.network.normalisation).eval()
    trunk.load_state_dict(trained.plain_trunk, strict=False)
    with torch.inference_mode():
        logits = trunk.trunk(trunk.normalisation(torch.from_numpy(HELD_OUT.images)))
    assert (logits.argmax(1).numpy() == HELD_OUT.labels).mean() > 0.9


def test_exit_accuracies_are_those_of_each_exit_alone(straight, monkeypatch):
    monkeypatch.setattr(runner, "BATCH", 7)
    network = straight[0].network
    with torch.inference_mode():
        logits = network(network.normalisation(torch.from_numpy(HELD_OUT.images)))
    expected = tuple(float((scored.argmax(1).numpy() == HELD_OUT.labels).mean()) for scored in logits)
    assert exit_accuracies(network, HELD_OUT) == pytest.approx(expected)


def states_after_each_step(folder, recipe=TINY):
    """(step, weights) after every optimiser step of a training."""
    states, networks = [], []
    original = trainer.build

    def remembered(*args):
        networks.append(original(*args))
        states.append((None, {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}))
        return networks[0]

    def on_step(step):
        if step.accuracies is None:
            states.append((step, {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build", remembered)
        train(recipe, TRAINING, HELD_OUT, folder, on_step)
    return states


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd", "muon"])
def test_trunk_and_baseline_phases_leave_the_branches_untouched(tmp_path, optimiser):
    recipe = dataclasses.replace(TINY, optimiser=optimiser, weight_decay=0.1, learning_rate=1e-3)
    states = states_after_each_step(tmp_path, recipe)
    fresh = states[0][1]
    branch = [name for name in fresh if name.startswith("stages.0.head.")]
    assert branch
    for step, state in states[1:]:
        untouched = [torch.equal(state[name], fresh[name]) for name in branch]
        assert all(untouched) if step.phase != "joint" else not any(untouched)


def test_joint_and_baseline_both_start_from_the_trunks_weights(tmp_path):
    states = states_after_each_step(tmp_path, dataclasses.replace(TINY, optimiser="sgd", learning_rate=1e-9))
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
    assert set(trained.plain_trunk) == {name for name in state if not name.startswith("stages.0.head.")}
    assert not any(torch.equal(trained.plain_trunk[name], state[name]) for name in trained.plain_trunk)


def test_branches_run_in_the_joint_phase_only(tmp_path, monkeypatch):
    ran, phases = [0], dict.fromkeys(PHASES, 0)

    def watched(*args):
        network = build(*args)
        network.stage(0).head.register_forward_hook(lambda head, *_: ran.append(head.training))
        return network

    def on_step(step):
        if step.accuracies is None:
            phases[step.phase] += sum(ran)
        ran.clear()

    monkeypatch.setattr(trainer, "build", watched)
    train(TINY, TRAINING, HELD_OUT, tmp_path, on_step)
    assert phases == {"trunk": 0, "joint": 6, "baseline": 0}


def test_every_epoch_draws_another_order(tmp_path, monkeypatch):
    batches = []
    monkeypatch.setattr(trainer, "augmented", lambda images, *_: batches.append(images.numpy().tobytes()) or images)
    train(TINY, TRAINING, HELD_OUT, tmp_path)
    epochs = [tuple(batches[start : start + 3]) for start in range(0, 18, 3)]
    assert len(set(epochs)) == 6


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
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda self, progress, _: asked.append(progress) or 1e-3)
    train(TINY, TRAINING, HELD_OUT, tmp_path)
    assert asked == pytest.approx([step / 6 for step in range(6)] * 3)


# --- data -------------------------------------------------------------------------------------------------


def test_calibration_images_are_never_trained_on(tmp_path, monkeypatch):
    training, calibration = split_calibration(quadrants(8), 12, seed=3)
    seen = set()

    def watched(images, kind, generator):
        seen.update(image.numpy().tobytes() for image in images)
        return images

    monkeypatch.setattr(trainer, "augmented", watched)
    train(TINY, training, calibration, tmp_path)
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
    return dataclasses.replace(TRAINING, **changes)


@pytest.mark.parametrize(
    ("dataset", "complaint"),
    [
        (altered(images=np.zeros((24, 1, 32, 32), np.uint8)), r"\(1, 32, 32\).*\(1, 28, 28\)"),
        (altered(images=np.zeros((24, 3, 28, 28), np.uint8)), r"\(3, 28, 28\).*\(1, 28, 28\)"),
        (altered(labels=TRAINING.labels % 3), r"no training image is of class \[3\]"),
        (altered(labels=np.arange(24) % 6, classes=tuple("abcdef")), r"labels \[4, 5\] exceed the 4 classes"),
        (altered(images=np.full_like(TRAINING.images, 7)), "constant"),
        (altered(images=TRAINING.images // 255), "constant"),
    ],
)
def test_data_that_would_silently_ruin_a_run_are_refused(dataset, complaint, tmp_path):
    with pytest.raises(InvalidInput, match=complaint):
        check_data(dataset, TINY)
    with pytest.raises(InvalidInput, match=complaint):
        train(TINY, dataset, HELD_OUT, tmp_path)


@pytest.mark.parametrize("exit_weights", [(1.0,), (1.0, 1.0, 1.0)])
def test_a_wrong_number_of_exit_weights_is_refused(exit_weights, tmp_path):
    with pytest.raises(InvalidInput, match=f"{len(exit_weights)} exit weights for 2 exits"):
        train(dataclasses.replace(TINY, exit_weights=exit_weights), TRAINING, HELD_OUT, tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_kept(tmp_path):
    wild = dataclasses.replace(TINY, optimiser="sgd", learning_rate=1e30)
    with pytest.raises(DamagedData, match=r"the loss is (nan|inf) at trunk epoch \d step \d; lower the learning rate"):
        train(wild, TRAINING, HELD_OUT, tmp_path)


def test_a_first_loss_far_above_chance_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "measure_normalisation", lambda _: Normalisation((0.0,), (1e-4,)))
    with pytest.raises(DamagedData, match=r"fresh weights should give about 1\.39"):
        train(TINY, TRAINING, HELD_OUT, tmp_path)


def test_fewer_images_than_a_batch_still_make_a_step(tmp_path):
    steps = []
    train(dataclasses.replace(TINY, batch_size=1000), quadrants(1), HELD_OUT, tmp_path, steps.append)
    assert {step.steps for step in steps} == {1}
    assert all(math.isfinite(step.loss) for step in steps)
