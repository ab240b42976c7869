"""Table I as data: it fits our layers, and the MACs counted on them are the known ones."""

import pytest

from branchynet.evaluation.paper import TABLE_I
from branchynet.models.architectures import cost
from branchynet.training.recipes import RECIPES

# Plain trunk over early exit at the paper's exit shares: with branch heads, and without.
GAINS = {
    "paper-lenet-mnist": (4.10, 6.70),
    "paper-alexnet-cifar10": (1.44, 1.60),
    "paper-resnet110-cifar10": (1.41, 2.03),
}


@pytest.mark.parametrize("paper", TABLE_I, ids=lambda paper: paper.artifact)
def test_a_row_fits_the_recipe_of_its_name(paper):
    assert RECIPES[paper.artifact].architecture == paper.architecture
    paper.rule.check_exits(cost(paper.architecture).exits)
    assert len(paper.exit_shares) == cost(paper.architecture).exits
    assert sum(paper.exit_shares) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("paper", TABLE_I, ids=lambda paper: paper.artifact)
def test_a_row_agrees_with_itself_and_our_count(paper):
    assert paper.trunk_ms / paper.ms == pytest.approx(paper.gain, abs=0.06)
    assert paper.gpu_trunk_ms / paper.gpu_ms == pytest.approx(paper.gpu_gain, abs=0.06)
    gains = (paper.trunk_macs / paper.macs(heads=True), paper.trunk_macs / paper.macs(heads=False))
    assert gains == pytest.approx(GAINS[paper.artifact], abs=0.006)
