"""A bottleneck for an artifact whose layers are there as graphs only, as `branchynet attach` makes them."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from exported_examples import IMAGES, SMALL, small_network
from network_examples import pictures
from test_codec_study import labelled

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.evaluation.codec_study import logits_from
from branchynet.exits.rules import ExitRule
from branchynet.network.graph_halves import GraphHalves
from branchynet.training.bottleneck import FrozenNetwork, train_bottleneck
from branchynet.training.bottleneck_recipes import bottleneck_recipe

TRAINING, HELD_OUT = labelled(pictures(SMALL, 40)), labelled(pictures(SMALL, 20, seed=1))


def maps_at(artifact, cut, images=IMAGES):
    x = images
    for index in range(cut):
        x, _ = artifact.runner().run(index, x)
    return x


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_tail_in_torch_answers_as_the_graphs_and_has_gradients(exported_folder, cut):
    artifact = Artifact.open(exported_folder)
    maps = maps_at(artifact, cut)
    x = torch.from_numpy(maps).requires_grad_()
    logits = artifact.trainable_tail(cut)(x)
    expected = logits_from(artifact.runner(), maps, cut)
    np.testing.assert_allclose(torch.stack(logits).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    sum(one.square().sum() for one in logits).backward()
    assert x.grad.abs().sum() > 0


def test_the_tail_in_torch_of_an_architecture_of_ours_is_the_network():
    artifact = Artifact.open("lenet-fashion")
    assert artifact.trainable_tail(1).exit_of_stage == artifact.network(1).exit_of_stage


@pytest.mark.parametrize("cut", [1, 2])
def test_it_gets_a_bottleneck_that_nodes_run_by_graphs(exported_folder, tmp_path, cut):
    shutil.copytree(exported_folder, tmp_path / "own")
    artifact = Artifact.open(tmp_path / "own")
    recipe = dataclasses.replace(bottleneck_recipe(artifact.manifest, cut), step=0.2, levels=255)
    frozen = FrozenNetwork(artifact.runner(), artifact.trainable_tail(cut), ExitRule.never(3))
    trained = train_bottleneck(recipe, frozen, (TRAINING, HELD_OUT), tmp_path / "run")
    complete = artifact.add_bottleneck(cut, *trained)
    assert complete.manifest.content_hash == artifact.manifest.content_hash
    codec = Artifact.open(tmp_path / "own").bottleneck(cut)
    assert isinstance(codec.halves, GraphHalves)
    maps = maps_at(artifact, cut, HELD_OUT.images)
    decoded = codec.decode(codec.encode(maps), maps.shape[1:], len(maps))
    # All coefficients are kept, in narrow levels: what little is lost is rounding.
    assert np.abs(decoded - maps).mean() < 0.1 * maps.std()
    uncut = small_network().resume(HELD_OUT.images, 0, 4, ExitRule.never(3)).logits
    through = artifact.runner().resume(decoded, cut, 4, ExitRule.never(3)).logits
    assert (through.argmax(1) == uncut.argmax(1)).mean() >= 0.9


@pytest.mark.parametrize(("cut", "reason"), [(0, "cuts 1 to 3"), (4, "cuts 1 to 3"), (3, "maps of channels")])
def test_a_cut_that_can_have_none_is_refused(exported_folder, tmp_path, cut, reason):
    artifact = Artifact.open(exported_folder)
    with pytest.raises(InvalidInput, match=reason):
        recipe = dataclasses.replace(bottleneck_recipe(artifact.manifest, cut), kept=16)
        frozen = FrozenNetwork(artifact.runner(), artifact.trainable_tail(cut), ExitRule.never(3))
        train_bottleneck(recipe, frozen, (TRAINING, HELD_OUT), tmp_path)
