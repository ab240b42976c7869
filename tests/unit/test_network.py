"""`resume` against an oracle that knows nothing of batches leaving, and the edges of parts and rules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from network_examples import (
    EVERY,
    LENET,
    LIGHT,
    batches,
    exit_logits,
    mixing_rule,
    pictures,
    random_network,
    rules,
    some,
    title,
)
from torch import nn

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import Criterion, ExitRule
from branchynet.models.architectures import Architecture
from branchynet.network.normalisation import Normalisation
from branchynet.network.runner import CHUNK_VALUES, Runner, batch_slices
from branchynet.network.stages import BranchyNet, Stage

every_model = pytest.mark.parametrize("architecture", EVERY, ids=title)


def confidence(criterion, logits):
    """Scores by torch's own softmax, in float64."""
    p = torch.softmax(torch.from_numpy(logits).double(), dim=-1)
    if criterion is Criterion.ENTROPY:
        return torch.special.entr(p).sum(-1).numpy()
    top = p.topk(2, dim=-1).values
    return (top[..., 0] if criterion is Criterion.MAX_PROBABILITY else top[..., 0] - top[..., 1]).numpy()


def first_sure_exit(logits, rule):
    """Brute force over *logits* [E, B, C]: the exit of each sample."""
    exits = []
    for sample in range(logits.shape[1]):
        taken = len(logits) - 1
        for number, threshold in enumerate(rule.thresholds):
            score = confidence(rule.criterion, logits[number, sample])
            if (score < threshold) if rule.criterion is Criterion.ENTROPY else (score > threshold):
                taken = number
                break
        exits.append(taken)
    return np.array(exits)


@pytest.mark.parametrize("architecture", LIGHT, ids=title)
def test_resume_takes_the_exit_that_plain_scores_ask_for(architecture):
    network = random_network(architecture)

    @some
    @given(st.data())
    def check(data):
        images = data.draw(batches(architecture, 6))
        rule = data.draw(rules(network, images))
        logits = exit_logits(network, images)
        distances = [np.abs(confidence(rule.criterion, logits[i]) - t).min() for i, t in enumerate(rule.thresholds)]
        assume(min(distances) > 1e-5)
        progress = network.resume(images, 0, network.total_stages, rule)
        expected = first_sure_exit(logits, rule)
        np.testing.assert_array_equal(progress.exits, expected)
        np.testing.assert_allclose(progress.logits, logits[expected, np.arange(len(images))], rtol=1e-4, atol=1e-4)
        assert len(progress.remaining) == 0

    check()


@every_model
def test_resume_mixes_exits_as_plain_scores_ask_for(architecture):
    network = random_network(architecture)
    images = pictures(architecture, network.exits, seed=11)
    rule = mixing_rule(network, images)
    progress = network.resume(images, 0, network.total_stages, rule)
    np.testing.assert_array_equal(progress.exits, first_sure_exit(exit_logits(network, images), rule))
    assert set(progress.exits) == set(range(network.exits))


def rows_seen(network, images, rule):
    """How many rows each stage's trunk and head were given during one `resume`."""
    trunks, heads = [0] * network.total_stages, [0] * network.total_stages
    handles = []
    for index in range(network.total_stages):
        for module, seen in ((network.stage(index).trunk, trunks), (network.stage(index).head, heads)):

            def count(_, inputs, __, seen=seen, index=index):
                seen[index] += len(inputs[0])

            handles.append(module.register_forward_hook(count))
    try:
        progress = network.resume(images, 0, network.total_stages, rule)
    finally:
        for handle in handles:
            handle.remove()
    return progress, trunks, heads


@every_model
def test_later_stages_run_on_the_stayers_and_nothing_else(architecture):
    network = random_network(architecture)
    images = pictures(architecture, 2 * network.exits, seed=2)
    progress, trunks, heads = rows_seen(network, images, mixing_rule(network, images))
    staying = [int((progress.exits >= number).sum()) for number in range(network.exits)]
    assert trunks == heads == staying
    assert staying[0] > staying[1] > 0


@every_model
def test_nothing_runs_behind_the_last_leaver(architecture):
    network = random_network(architecture)
    rule = ExitRule(Criterion.ENTROPY, (Criterion.ENTROPY.always,) * (network.exits - 1))
    _, trunks, _ = rows_seen(network, pictures(architecture, 2), rule)
    assert trunks == [2] + [0] * (network.total_stages - 1)


@every_model
def test_trunk_gives_the_final_logits_without_running_a_branch(architecture):
    network = random_network(architecture)
    images = torch.from_numpy(pictures(architecture, 2))
    ran = []
    handles = [
        network.stage(index).head.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index in range(network.total_stages)
    ]
    with torch.inference_mode():
        plain = network.trunk(network.normalisation(images))
    for handle in handles:
        handle.remove()
    np.testing.assert_array_equal(plain.numpy(), exit_logits(network, images.numpy())[-1])
    assert ran == [network.total_stages - 1]


def test_an_edge_part_says_who_stays_and_hands_on_their_maps_only():
    network, images = random_network(), pictures(LENET, 10)
    rule = mixing_rule(network, images)
    progress = network.part(0, 1).resume(images, 0, 1, rule)
    stays = first_sure_exit(exit_logits(network, images), rule) == 1
    np.testing.assert_array_equal(progress.remaining, np.flatnonzero(stays))
    with torch.inference_mode():
        maps = network.stage(0).trunk(network.normalisation(torch.from_numpy(images)))
    np.testing.assert_array_equal(progress.features, maps.numpy()[stays])
    assert set(progress.exits) == {0}, "exit 0 scored everybody, the stayers too"
    np.testing.assert_array_equal(progress.logits, exit_logits(network, images)[0])


def test_resuming_over_no_stage_leaves_everything_as_it_is():
    images = torch.from_numpy(pictures(LENET, 3))
    progress = random_network().resume(images, 0, 0, ExitRule.never(2))
    assert progress.features is images
    np.testing.assert_array_equal(progress.exits, [-1, -1, -1])
    np.testing.assert_array_equal(progress.remaining, [0, 1, 2])
    assert not progress.logits.any()


def test_an_empty_batch_has_an_empty_answer():
    progress = random_network().resume(torch.zeros(0, 1, 28, 28, dtype=torch.uint8), 0, 2, ExitRule.never(2))
    assert progress.logits.shape == (0, 10)
    assert len(progress.exits) == len(progress.remaining) == 0


@pytest.mark.parametrize(("first", "last"), [(0, 2), (1, 3), (-1, 2), (2, 1)])
def test_stages_that_a_half_does_not_hold_are_refused(first, last):
    cloud = random_network().part(1, 2)
    with pytest.raises(InvalidInput, match=r"holds \[1, 2\)"):
        cloud.resume(torch.zeros(1, 5, 15, 15), first, last, ExitRule.never(2))
    with pytest.raises(InvalidInput, match=r"holds \[1, 2\)"):
        cloud.part(first, last)


def test_a_single_stage_that_is_not_held_is_refused():
    with pytest.raises(InvalidInput, match="stage 0"):
        random_network().part(1, 2).stage(0)


def test_a_rule_for_another_number_of_exits_is_refused_by_both_halves():
    rule = ExitRule(Criterion.ENTROPY, (0.1, 0.2))
    with pytest.raises(InvalidInput, match="2 thresholds"):
        random_network().part(0, 1).resume(pictures(LENET, 1), 0, 1, rule)
    with pytest.raises(InvalidInput, match="2 thresholds"):
        random_network().part(1, 2).resume(torch.zeros(1, 5, 15, 15), 1, 2, rule)


def test_parts_keep_the_numbers_of_the_whole():
    cloud = random_network(Architecture("b-alexnet")).part(1, 3)
    assert (cloud.first, cloud.last, cloud.total_stages, cloud.exits) == (1, 3, 3, 3)
    assert {name.split(".")[1] for name in cloud.state_dict()} == {"1", "2"}
    assert cloud.part(2, 3).stage(2) is random_network(Architecture("b-alexnet")).stage(2)


def plain_stage(head):
    return Stage(nn.Linear(4, 4), nn.Linear(4, 3) if head else None)


def whole(*heads):
    return BranchyNet.whole(
        [plain_stage(head) for head in heads],
        input_shape=(1, 2, 2),
        classes=3,
        normalisation=Normalisation((0.0,), (1.0,)),
    )


@pytest.mark.parametrize("heads", [(), (True, False)])
def test_a_network_must_end_with_an_exit(heads):
    with pytest.raises(InvalidInput, match="last stage"):
        whole(*heads)


def test_exits_are_numbered_over_the_stages_that_have_one():
    network = whole(False, True, False, True)
    assert network.exit_of_stage == (None, 0, None, 1)
    assert (network.total_stages, network.exits) == (4, 2)
    assert len(network(torch.zeros(2, 4))) == 2


def test_a_stage_without_exit_passes_everybody_on():
    torch.manual_seed(0)
    network, x = whole(True, False, True), torch.randn(5, 4)
    rule = ExitRule(Criterion.ENTROPY, (Criterion.ENTROPY.always,))
    passed = network.resume(x.numpy(), 1, 2, rule)
    assert set(passed.exits) == {-1}
    np.testing.assert_array_equal(passed.remaining, range(5))
    np.testing.assert_array_equal(passed.features, network.stage(1).trunk(x).detach().numpy())
    ended = network.resume(x.numpy(), 1, 3, rule)
    assert set(ended.exits) == {1}
    np.testing.assert_array_equal(ended.logits, network.stage(2)(network.stage(1).trunk(x))[1].detach().numpy())


@given(images=batches(LENET, 3))
@some
def test_normalisation_is_pixel_over_255_minus_mean_over_std(images):
    ours = Normalisation((0.3,), (0.6,))(torch.from_numpy(images))
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), (images / 255 - 0.3) / 0.6, rtol=1e-5, atol=1e-6)


def test_normalisation_has_its_own_numbers_for_each_channel():
    images = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    np.testing.assert_allclose(Normalisation((0.0, 0.5), (1.0, 0.25))(images).ravel().numpy(), [1.0, 2.0])


def test_images_are_normalised_once_on_the_way_through_both_halves():
    network, images = random_network(), pictures(LENET, 4)
    progress = network.resume(images, 0, 2, ExitRule.never(2))
    np.testing.assert_array_equal(progress.logits, exit_logits(network, images)[-1])


class Reciting(Runner):
    """A network of as many exits as *table* has, which say what stands there; a sample's map is its row."""

    def __init__(self, table):
        exits = range(table.exits)
        super().__init__(input_shape=(1, 1, 1), classes=3, exit_of_stage=exits, first=0, last=len(exits))
        self.table = table

    def run_chunk(self, index, x):
        return x, self.table.logits[index, x]

    def without_branches(self):
        raise NotImplementedError


@pytest.mark.parametrize("cut", range(6))
@pytest.mark.parametrize("rule", [ExitRule("patience", (1, 1, 2, 1)), ExitRule("margin", (0.6, 0.5, 0.4, 0.3))])
def test_of_many_exits_each_sample_takes_the_one_that_a_table_says(rule, cut):
    random = np.random.default_rng(0)
    table = OutcomeTable(random.normal(size=(5, 60, 3)).astype(np.float32), random.integers(0, 3, 60), np.ones(5))
    network = Reciting(table)
    first = network.resume(np.arange(60), 0, cut, rule)
    exits = first.exits.copy()
    rest = network.resume(first.features, cut, 5, rule, first.history)
    exits[first.remaining] = np.where(rest.exits < 0, first.exits[first.remaining], rest.exits)
    np.testing.assert_array_equal(exits, table.exit_of(rule))
    assert len(set(exits)) >= 3


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, 700, 700)])
def test_a_large_batch_runs_in_chunks_that_a_cut_does_not_change(shape):
    sizes = []

    class Counting(Runner):
        def run_chunk(self, index, x):
            sizes.append((index, len(x)))
            hands_on = x.astype(np.float32) if index == 0 else x[:, :1]
            return hands_on, None if index == 0 else np.zeros((len(x), 2), np.float32)

        def without_branches(self):
            raise NotImplementedError

    network = Counting(input_shape=shape, classes=2, exit_of_stage=(None, 0), first=0, last=2)
    images = np.arange(15, dtype=np.uint8)[:, None, None, None] * np.ones((1, *shape), np.uint8)
    whole, whole_sizes = network.resume(images, 0, 2, ExitRule.never(1)), list(sizes)
    sizes.clear()
    first = network.resume(images, 0, 1, ExitRule.never(1))
    rest = network.resume(first.features, 1, 2, ExitRule.never(1))
    assert sizes == whole_sizes
    assert max(size for _, size in sizes) == max(1, CHUNK_VALUES // math.prod(shape)) < 15
    assert sum(size for index, size in sizes if index == 0) == 15
    np.testing.assert_array_equal(first.features, images)
    np.testing.assert_array_equal(rest.features, whole.features)


def test_data_sets_are_worked_through_in_slices_that_memory_bears():
    small, large = np.empty((1_201, 1, 28, 28), np.uint8), np.empty((100, 3, 224, 224), np.uint8)
    assert [(batch.start, batch.stop) for batch in batch_slices(small)] == [(0, 500), (500, 1_000), (1_000, 1_201)]
    assert [batch.stop - batch.start for batch in batch_slices(large)] == [27, 27, 27, 19]
    assert len(list(batch_slices(np.empty((3, 3, 4_000, 4_000), np.uint8)))) == 3
