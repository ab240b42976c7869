"""Whole = split on models of others, at a few cuts each; `benchmarks/attach.py` checks 38 at every legal one."""

import warnings

import pytest
import torch
from attached import attached, check_split
from other_models import CLASSES, SHAPE, create

from branchynet.network.counting import measure_cost
from branchynet.surgery.attach import legal_cuts

CUTS = {
    "timm:resnet10t": ["layer1.0.conv1", "layer1", "layer2.0.downsample", "layer3"],
    "timm:mobilenetv3_small_050": ["bn1", "blocks.1.0.conv_dw", "blocks.3"],
    "timm:efficientnet_b0": ["blocks.1.1.se.conv_expand", "blocks.3"],
    "timm:densenet121": ["features.denseblock1.denselayer3.conv1", "features.denseblock2", "features.transition3"],
    "timm:convnext_atto": ["stem", "stages.1.blocks.0.norm", "stages.2"],
    "timm:mixer_s32_224": ["stem", "blocks.1.mlp_tokens", "blocks.3"],
    "timm:vit_tiny_patch16_224": ["patch_embed", "blocks.0.attn.qkv", "blocks.5.mlp.fc1", "blocks.8"],
    "timm:swin_tiny_patch4_window7_224": ["patch_embed", "layers.0.blocks.1.mlp.fc1", "layers.2.blocks.2.attn"],
    "torchvision:squeezenet1_1": ["features.3.squeeze", "features.7"],
}


@pytest.fixture(scope="module")
def model():
    made = {}

    def of(name):
        if name not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # timm's own, on import
                made[name] = create(name)
        return made[name]

    return of


@pytest.mark.parametrize("name", CUTS)
def test_whole_and_split_equal_the_model(name, model):
    network = attached(model(name), CUTS[name], SHAPE, CLASSES)
    assert network.total_stages == len(CUTS[name]) + 1
    check_split(model(name), network)


def test_legal_cuts_of_a_residual_network_count_what_its_skips_carry(model):
    cuts = {name: cut for cut in legal_cuts(model("timm:resnet10t"), SHAPE) for name in (cut.name, *cut.aliases)}
    crossing = {name: [carried.shape for carried in cut.crossing] for name, cut in cuts.items()}
    assert crossing["layer1"] == [(64, 16, 16)]
    assert crossing["layer1.0.conv1"] == [(64, 16, 16), (64, 16, 16)]
    assert cuts["layer1"].bytes * 2 == cuts["layer1.0.conv1"].bytes == 2 * 4 * 64 * 16 * 16
    macs = [cut.macs_before for cut in legal_cuts(model("timm:resnet10t"), SHAPE)]
    assert macs == sorted(macs)


def test_attention_is_counted(model):
    network = attached(model("timm:vit_tiny_patch16_224"), ["blocks.0", "blocks.1"], SHAPE, CLASSES)
    tokens, width = 17, 192
    linear = tokens * width * width * (3 + 1 + 4 + 4)
    assert measure_cost(network).stages[1].trunk_macs == linear + 2 * tokens * tokens * width


def test_a_trunk_in_training_draws_the_same_dropped_paths(model):
    regularised = create("timm:convnext_atto", drop_path_rate=0.5, drop_rate=0.5)
    network = attached(regularised, ["stages.0", "stages.2"], SHAPE, CLASSES).train()
    regularised.train()
    x = torch.randn(2, *SHAPE)
    outputs = []
    for forward in (regularised, network.trunk):
        torch.manual_seed(3)
        outputs.append(forward(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
