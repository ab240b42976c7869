"""Edge half and cloud half, loaded from disk on their own, give what the whole network gives: bit for bit in fp32."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from network_examples import (
    EVERY,
    LENET,
    LIGHT,
    batches,
    exit_logits,
    few,
    mixing_rule,
    pictures,
    random_network,
    rules,
    scored_rules,
    some,
    title,
)

from branchynet.exits.rules import LOGIT_CRITERIA, Criterion, ExitRule
from branchynet.rpc.messages import (
    array_from_tensor,
    history_from_message,
    history_to_message,
    tensor_from_array,
)

every_model = pytest.mark.parametrize("architecture", EVERY, ids=title)


def as_received(features):
    """*features* after a trip over the wire."""
    return array_from_tensor(tensor_from_array(features), "features").copy()


def received_history(history):
    return None if history is None else history_from_message(history_to_message(history))


def joined(edge, cloud, cut, images, rule):
    """Exits and logits of *images* when *edge* runs the stages before *cut* and *cloud* the others."""
    progress = edge.resume(images, 0, cut, rule)
    exits, logits = progress.exits.copy(), progress.logits.copy()
    if len(progress.remaining):
        features, history = as_received(progress.features), received_history(progress.history)
        resumed = cloud.resume(features, cut, cloud.total_stages, rule, history)
        exits[progress.remaining], logits[progress.remaining] = resumed.exits, resumed.logits
        assert len(resumed.remaining) == 0
    return exits, logits


def check_every_cut(architecture, loaded, images, rule):
    network = random_network(architecture)
    stages = network.total_stages
    whole = network.resume(images, 0, stages, rule)

    def halves(cut):
        return loaded(architecture, 0, cut)[1], loaded(architecture, cut, stages)[1]

    for cut in range(stages + 1):
        exits, logits = joined(*halves(cut), cut, images, rule)
        np.testing.assert_array_equal(exits, whole.exits, err_msg=f"exits at cut {cut}")
        np.testing.assert_array_equal(logits, whole.logits, err_msg=f"logits at cut {cut}")
    return whole.exits


@pytest.mark.parametrize("architecture", LIGHT, ids=title)
def test_halves_equal_the_whole_at_every_cut(architecture, loaded):
    @some
    @given(st.data())
    def check(data):
        images = data.draw(batches(architecture, 6))
        check_every_cut(architecture, loaded, images, data.draw(scored_rules(random_network(architecture), images)))

    check()


@pytest.mark.parametrize("architecture", [a for a in EVERY if a not in LIGHT], ids=title)
def test_halves_of_the_deep_network_equal_the_whole_at_every_cut(architecture, loaded):
    @few
    @given(st.data())
    def check(data):
        images = data.draw(batches(architecture, 3))
        check_every_cut(architecture, loaded, images, data.draw(rules(random_network(architecture), images)))

    check()


@every_model
def test_halves_equal_the_whole_when_every_exit_answers_some(architecture, loaded):
    network = random_network(architecture)
    images = pictures(architecture, network.exits, seed=3)
    exits = check_every_cut(architecture, loaded, images, mixing_rule(network, images))
    assert sorted(exits) == list(range(network.exits))


@pytest.mark.parametrize("criterion", LOGIT_CRITERIA)
def test_a_mixed_batch_really_mixes_under_every_criterion(criterion, loaded):
    images = pictures(LENET, 40)
    exits = check_every_cut(LENET, loaded, images, mixing_rule(random_network(), images, criterion))
    assert Counter(exits.tolist()) == {0: 20, 1: 20}


@pytest.mark.parametrize(("threshold", "taken"), [(Criterion.ENTROPY.always, 0), (Criterion.ENTROPY.never, 1)])
def test_halves_equal_the_whole_when_all_leave_at_one_exit(threshold, taken, loaded):
    exits = check_every_cut(LENET, loaded, pictures(LENET, 9), ExitRule(Criterion.ENTROPY, (threshold,)))
    assert set(exits) == {taken}


@every_model
def test_three_parts_in_a_row_equal_the_whole(architecture, loaded):
    network = random_network(architecture)
    images = pictures(architecture, network.exits, seed=5)
    rule = mixing_rule(network, images)
    whole = network.resume(images, 0, network.total_stages, rule)
    positions, features = np.arange(len(images)), images
    for index in range(network.total_stages):
        progress = loaded(architecture, index, index + 1)[1].resume(features, index, index + 1, rule)
        left = np.setdiff1d(np.arange(len(positions)), progress.remaining)
        np.testing.assert_array_equal(progress.exits[left], whole.exits[positions[left]])
        np.testing.assert_array_equal(progress.logits[left], whole.logits[positions[left]])
        positions, features = positions[progress.remaining], progress.features
    assert len(positions) == 0


def decided_one_by_one(network, images, rule):
    with torch.inference_mode():
        singles = [network.resume(image[None], 0, network.total_stages, rule) for image in images]
    return np.array([int(single.exits[0]) for single in singles]), np.concatenate([s.logits for s in singles])


def check_batch_equals_singles(architecture, images, rule):
    network = random_network(architecture)
    batch = network.resume(images, 0, network.total_stages, rule)
    exits, logits = decided_one_by_one(network, images, rule)
    np.testing.assert_array_equal(batch.exits, exits)
    np.testing.assert_array_equal(batch.logits.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(batch.logits, logits, rtol=1e-4, atol=1e-4)


def far_from_every_score(rule, logits, margin=1e-5):
    """No sample is so close to a threshold that the rounding of another batch size could decide."""
    return all(
        np.abs(rule.criterion.score(scored) - threshold).min() > margin
        for scored, threshold in zip(logits, rule.thresholds, strict=False)
    )


@pytest.mark.parametrize("architecture", LIGHT, ids=title)
def test_a_batch_of_n_decides_like_n_single_runs(architecture):
    @some
    @given(st.data())
    def check(data):
        images = data.draw(batches(architecture, 6))
        rule = data.draw(rules(random_network(architecture), images))
        assume(far_from_every_score(rule, exit_logits(random_network(architecture), images)))
        check_batch_equals_singles(architecture, images, rule)

    check()


@every_model
def test_a_mixed_batch_decides_like_single_runs(architecture):
    network = random_network(architecture)
    images = pictures(architecture, network.exits, seed=3)
    check_batch_equals_singles(architecture, images, mixing_rule(network, images))


@given(seed=st.integers(0, 2**32), order=st.permutations(range(6)))
@example(seed=0, order=[5, 4, 3, 2, 1, 0])
@some
def test_the_order_of_a_batch_does_not_change_its_answers(seed, order):
    images, network = pictures(LENET, 6, seed), random_network()
    rule = mixing_rule(network, images)
    assume(far_from_every_score(rule, exit_logits(network, images)))
    straight = network.resume(images, 0, 2, rule)
    shuffled = network.resume(images[order], 0, 2, rule)
    np.testing.assert_array_equal(shuffled.exits, straight.exits[order])
    np.testing.assert_array_equal(shuffled.logits.argmax(1), straight.logits.argmax(1)[order])
