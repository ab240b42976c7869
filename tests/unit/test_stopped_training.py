"""A training that is stopped goes on to the very weights of one that is not; checkpoints and logs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from network_examples import HELD_OUT, TINY, TRAINING
from torch import nn

from branchynet.data.datasets import Dataset
from branchynet.errors import DamagedData, InvalidInput
from branchynet.models.architectures import Architecture, build
from branchynet.models.layers import ResidualBlock
from branchynet.network.stages import BranchyNet, Stage
from branchynet.training import trainer
from branchynet.training.recipes import Recipe
from branchynet.training.trainer import PHASES, train
from branchynet.training.trunk_transfer import trunk_entries


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
    return {**trained.network.state_dict(), **{f"baseline {name}": w for name, w in trained.plain_trunk.items()}}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Each of the 6 epochs reports three steps and its end.
EPOCH_ENDS = [4 * epoch + 3 for epoch in range(6)]
PHASE_STARTS = [8, 16]


@pytest.mark.parametrize("call", [1, *EPOCH_ENDS, *PHASE_STARTS])
def test_a_stopped_run_goes_on_to_the_same_weights(straight, tmp_path, call):
    with pytest.raises(Stopped):
        train(TINY, TRAINING, HELD_OUT, tmp_path, stop_at(call))
    torch.manual_seed(12345)  # nothing may hang on what the process did before
    assert equal(weights(train(TINY, TRAINING, HELD_OUT, tmp_path)), weights(straight[0]))


def test_a_run_stopped_again_and_again_ends_at_the_same_weights(straight, tmp_path):
    for _ in range(5):
        with pytest.raises(Stopped):
            train(TINY, TRAINING, HELD_OUT, tmp_path, stop_at(4))
    assert equal(weights(train(TINY, TRAINING, HELD_OUT, tmp_path)), weights(straight[0]))


def test_a_finished_run_gives_its_result_again_without_a_step(straight):
    trained, folder, _ = straight
    again = train(TINY, TRAINING, HELD_OUT, folder, stop_at(0))
    assert equal(weights(again), weights(trained))


def test_another_seed_gives_other_weights(straight, tmp_path):
    other = train(dataclasses.replace(TINY, seed=1), TRAINING, HELD_OUT, tmp_path)
    assert not equal(weights(other), weights(straight[0]))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"joint_epochs": 3}, {"architecture": Architecture("b-lenet", "code", 4)}]
)
def test_a_checkpoint_of_another_recipe_is_refused_with_the_difference(straight, change):
    with pytest.raises(InvalidInput, match=f"another recipe .*{next(iter(change))}"):
        train(dataclasses.replace(TINY, **change), TRAINING, HELD_OUT, straight[1])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("damage", [lambda blob: blob[: len(blob) // 2], lambda _: b"", lambda _: b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(straight, tmp_path, damage, phase):
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{phase}.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedData, match=rf"{phase}\.pt"):
        train(TINY, TRAINING, HELD_OUT, tmp_path)


# --- phases on their own -----------------------------------------------------------------------------------


def test_phases_run_one_by_one_and_in_any_order_give_the_same_weights(straight, tmp_path):
    for phases in (("trunk",), ("baseline",), ("trunk",)):
        assert train(TINY, TRAINING, HELD_OUT, tmp_path, phases=phases) is None
    trained = train(TINY, TRAINING, HELD_OUT, tmp_path, phases=("joint",))
    assert equal(weights(trained), weights(straight[0]))


def test_without_its_trunk_a_joint_phase_does_not_begin(tmp_path):
    assert train(TINY, TRAINING, HELD_OUT, tmp_path, phases=("joint",)) is None
    assert not (tmp_path / "log.jsonl").exists()


def test_another_joint_phase_goes_on_from_the_same_trunk(straight, tmp_path):
    shutil.copy(straight[1] / "trunk.pt", tmp_path)
    longer = dataclasses.replace(TINY, joint_epochs=3, exit_weights=(2.0, 1.0), distillation=0.3)
    assert train(longer, TRAINING, HELD_OUT, tmp_path) is not None
    assert {(r["phase"], r["epochs"]) for r in read_log(tmp_path)} == {("joint", 3), ("baseline", 3)}


def test_the_trunk_of_another_run_serves_other_branches(straight, tmp_path):
    # The variants name the same trunk layers but cut them at different places.
    other = dataclasses.replace(
        TINY, architecture=Architecture("b-lenet", "code", 4), optimiser="sgd", learning_rate=1e-9
    )
    trained = train(other, TRAINING, HELD_OUT, tmp_path, trunk_from=straight[1])
    trunk = torch.load(straight[1] / "trunk.pt")["network"]
    shapes = [tuple(tensor.shape) for tensor in trained.plain_trunk.values()]
    assert shapes == [tuple(tensor.shape) for tensor in trunk.values()]
    for ours, theirs in zip(trained.plain_trunk.values(), trunk.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert {r["phase"] for r in read_log(tmp_path)} == {"joint", "baseline"}


def test_a_run_without_a_trunk_of_its_own_hands_on_its_baseline(straight, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    train(TINY, TRAINING, HELD_OUT, once, trunk_from=straight[1], phases=("baseline",))
    assert not (once / "trunk.pt").exists()
    still = dataclasses.replace(TINY, optimiser="sgd", learning_rate=1e-9)
    trained = train(still, TRAINING, HELD_OUT, twice, trunk_from=once)
    for name, tensor in torch.load(once / "baseline.pt")["network"].items():
        torch.testing.assert_close(trained.plain_trunk[name], tensor, rtol=0, atol=1e-6)


def test_a_trunk_that_is_missing_unfinished_or_different_is_refused(straight, tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no trunk\.pt"):
        train(TINY, TRAINING, HELD_OUT, tmp_path, trunk_from=tmp_path)
    with pytest.raises(Stopped):
        train(TINY, TRAINING, HELD_OUT, tmp_path / "half", stop_at(5))
    with pytest.raises(InvalidInput, match="1 of 2 epochs"):
        train(TINY, TRAINING, HELD_OUT, tmp_path, trunk_from=tmp_path / "half")
    alexnet = dataclasses.replace(TINY, architecture=Architecture("b-alexnet", "paper", 2), exit_weights=(1.0,) * 3)
    with pytest.raises(InvalidInput, match="other layers"):
        train(alexnet, coloured(8), coloured(2), tmp_path, trunk_from=straight[1])


def test_a_recipe_without_a_trunk_phase_trains_all_exits_from_fresh_weights(tmp_path):
    recipe = dataclasses.replace(TINY, trunk_epochs=0)
    trained = train(recipe, TRAINING, HELD_OUT, tmp_path)
    assert {r["phase"] for r in read_log(tmp_path)} == {"joint", "baseline"}
    assert not equal(weights(trained), {})


def test_the_papers_baseline_is_its_trunk(straight, tmp_path):
    shutil.copy(straight[1] / "trunk.pt", tmp_path)
    trained = train(dataclasses.replace(TINY, baseline="trunk"), TRAINING, HELD_OUT, tmp_path)
    assert equal(trained.plain_trunk, torch.load(tmp_path / "trunk.pt")["network"])
    assert not (tmp_path / "baseline.pt").exists()


def test_the_own_final_exit_as_baseline_takes_no_training_and_a_joint_phase_that_had_another(straight, tmp_path):
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "baseline.pt").unlink()
    (tmp_path / "log.jsonl").unlink()
    trained = train(dataclasses.replace(TINY, baseline="final-exit"), TRAINING, HELD_OUT, tmp_path)
    assert trained is not None
    assert not (tmp_path / "log.jsonl").exists(), "nothing was left to train"
    assert equal(trained.plain_trunk, trunk_entries(trained.network.state_dict()))
    assert equal(trained.network.state_dict(), straight[0].network.state_dict())
    with pytest.raises(Stopped):
        train(TINY, TRAINING, HELD_OUT, tmp_path, stop_at(1))  # where the plain network is wanted after all


FROZEN = dataclasses.replace(TINY, frozen=True, branch_epochs=3, averaging=0.8)


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_branches_on_a_frozen_trunk_leave_the_plain_network_as_it_is(straight, tmp_path, distillation):
    shutil.copy(straight[1] / "trunk.pt", tmp_path)
    recipe = dataclasses.replace(FROZEN, distillation=distillation)
    trained = train(recipe, TRAINING, HELD_OUT, tmp_path)
    assert equal(trunk_entries(trained.network.state_dict()), trained.plain_trunk)
    epochs = [(record["phase"], record["epochs"]) for record in read_log(tmp_path)]
    assert epochs == [("baseline", 2)] * 2 + [("joint", 3)] * 3
    fresh = build(recipe.architecture, trained.network.normalisation).state_dict()
    learnt = {name for name, tensor in trained.network.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert {name for name in learnt if name.startswith("stages.0.head")}


def test_branches_on_a_frozen_trunk_wait_for_it_and_go_on_where_they_stopped(straight, tmp_path):
    shutil.copy(straight[1] / "trunk.pt", tmp_path)
    assert train(FROZEN, TRAINING, HELD_OUT, tmp_path, phases=("joint",)) is None
    assert not (tmp_path / "joint.pt").exists()
    whole = train(FROZEN, TRAINING, HELD_OUT, tmp_path)
    (tmp_path / "joint.pt").unlink()
    with pytest.raises(Stopped):
        train(FROZEN, TRAINING, HELD_OUT, tmp_path, stop_at(6))
    assert equal(weights(train(FROZEN, TRAINING, HELD_OUT, tmp_path)), weights(whole))


def test_other_branches_need_no_other_baseline(straight, tmp_path):
    shutil.copy(straight[1] / "trunk.pt", tmp_path)
    shutil.copy(straight[1] / "baseline.pt", tmp_path)
    heavier = dataclasses.replace(TINY, exit_weights=(2.0, 1.0), distillation=0.3)
    assert train(heavier, TRAINING, HELD_OUT, tmp_path) is not None
    assert {record["phase"] for record in read_log(tmp_path)} == {"joint"}


def test_a_checkpoint_that_is_older_than_a_field_is_taken_as_trained_with_its_default(straight, tmp_path):
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    for phase in PHASES:
        saved = torch.load(tmp_path / f"{phase}.pt")
        old = json.loads(saved["recipe"])
        old.pop("label_smoothing")
        torch.save({**saved, "recipe": json.dumps(old)}, tmp_path / f"{phase}.pt")
    assert equal(weights(train(TINY, TRAINING, HELD_OUT, tmp_path, stop_at(0))), weights(straight[0]))
    with pytest.raises(InvalidInput, match=r"label_smoothing: 0\.0 there, 0\.1 asked"):
        train(dataclasses.replace(TINY, label_smoothing=0.1), TRAINING, HELD_OUT, tmp_path)


def test_averaged_weights_survive_a_stop_and_differ_from_the_last_ones(tmp_path):
    recipe = dataclasses.replace(TINY, averaging=0.8)
    whole = train(recipe, TRAINING, HELD_OUT, tmp_path / "whole")
    for call in (*PHASE_STARTS, 13):
        folder = tmp_path / str(call)
        with pytest.raises(Stopped):
            train(recipe, TRAINING, HELD_OUT, folder, stop_at(call))
        assert equal(weights(train(recipe, TRAINING, HELD_OUT, folder)), weights(whole))
    saved = torch.load(tmp_path / "whole" / "joint.pt")
    assert equal(saved["average"], whole.network.state_dict())
    assert not equal(saved["average"], saved["network"])


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
            train(TINY, TRAINING, HELD_OUT, tmp_path, stop_at(call))
    train(TINY, TRAINING, HELD_OUT, tmp_path)
    assert [(r["phase"], r["epoch"]) for r in read_log(tmp_path)] == [(p, e) for p in PHASES for e in (1, 2)]


def coloured(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    return Dataset("noise", images, np.arange(count) % 2, ("a", "b"), "train", "made by a test")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropout_and_both_precisions_survive_a_stop(tmp_path, precision):
    recipe = Recipe(
        Architecture("b-alexnet", "paper", 2),
        "cifar10",
        trunk_epochs=2,
        joint_epochs=1,
        batch_size=4,
        exit_weights=(1.0, 1.0, 1.0),
        optimiser="sgd",
        augmentation="crop-flip",
        precision=precision,
    )
    whole = train(recipe, coloured(8), coloured(2), tmp_path / "whole")
    for call in (4, 8):
        folder = tmp_path / str(call)
        with pytest.raises(Stopped):
            train(recipe, coloured(8), coloured(2), folder, stop_at(call))
        assert equal(weights(train(recipe, coloured(8), coloured(2), folder)), weights(whole))
    for tensor in weights(whole).values():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()


def normalised_network(architecture, normalisation):
    """A small stand-in for B-ResNet: the state of its batch normalisation is not among the parameters."""
    first = Stage(nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.BatchNorm2d(4)), head(architecture.classes))
    return BranchyNet.whole(
        [first, Stage(ResidualBlock(4, 4), head(architecture.classes))],
        input_shape=architecture.input_shape,
        classes=architecture.classes,
        normalisation=normalisation,
    )


def head(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def test_batch_normalisation_survives_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "build", normalised_network)
    whole = train(TINY, TRAINING, HELD_OUT, tmp_path / "whole")
    for _ in range(5):
        with pytest.raises(Stopped):
            train(TINY, TRAINING, HELD_OUT, tmp_path / "stopped", stop_at(4))
    assert equal(weights(train(TINY, TRAINING, HELD_OUT, tmp_path / "stopped")), weights(whole))
    assert any(name.endswith("running_var") for name in whole.plain_trunk)
    trunk, joined = whole.plain_trunk, whole.network.state_dict()
    assert not torch.equal(trunk["stages.0.trunk.1.running_mean"], joined["stages.0.trunk.1.running_mean"])
