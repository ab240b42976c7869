"""The networks layer by layer: Chainer's meaning, the shapes of the table, and equal functions in both variants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_examples import EVERY, batches, exit_logits, normalisation_for, pictures, random_network, some, title
from torch import nn

from branchynet.artifact import zoo
from branchynet.errors import InvalidInput, UnknownModel
from branchynet.models.architectures import Architecture, build, cut_shapes
from branchynet.models.layers import LocalResponseNorm, ResidualBlock, ceil_pool

LENET_CODE, ALEXNET_CODE, RESNET_CODE = (
    Architecture(name, "code") for name in ("b-lenet", "b-alexnet", "b-resnet-110")
)


def layers(network, kind):
    return [layer for layer in network.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "variant", "shapes"),
    [
        ("b-lenet", "code", [(1, 28, 28), (5, 30, 30)]),
        ("b-lenet", "paper", [(1, 28, 28), (5, 15, 15)]),
        ("b-alexnet", "code", [(3, 32, 32), (64, 16, 16), (96, 8, 8)]),
        ("b-alexnet", "paper", [(3, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("b-resnet-110", "code", [(3, 32, 32), (16, 30, 30), (16, 30, 30)]),
        ("b-resnet-110", "paper", [(3, 32, 32), (16, 32, 32), (16, 32, 32)]),
    ],
)
def test_shapes_at_the_cuts(name, variant, shapes):
    assert cut_shapes(Architecture(name, variant)) == shapes


@pytest.mark.parametrize("architecture", EVERY, ids=title)
def test_maps_at_the_cuts_really_have_those_shapes(architecture):
    network = random_network(architecture)
    with torch.inference_mode():
        x = network.normalisation(torch.from_numpy(pictures(architecture, 1)))
        for index, shape in enumerate(cut_shapes(architecture)):
            assert x.shape[1:] == shape
            x, logits = network.stage(index)(x)
            assert logits.shape == (1, 10)


@pytest.mark.parametrize(
    ("architecture", "inputs"),
    [
        (LENET_CODE, [640, 720, 84]),
        (ALEXNET_CODE, [512, 128, 1024, 256, 128]),
        (RESNET_CODE, [32 * 30 * 30, 16 * 30 * 30, 576]),
    ],
    ids=title,
)
def test_linear_layers_have_the_inputs_that_ceil_pooling_makes(architecture, inputs):
    linear = layers(random_network(architecture), nn.Linear)
    assert sorted(layer.in_features for layer in linear) == sorted(inputs)


@pytest.mark.parametrize(("size", "kernel", "pooled"), [(15, 2, 8), (17, 2, 9), (11, 2, 6), (32, 3, 16), (8, 3, 4)])
def test_pooling_covers_the_whole_map(size, kernel, pooled):
    x = torch.zeros(1, 1, size, size)
    x[0, 0, -1, -1] = 1
    out = ceil_pool(kernel)(x)
    assert out.shape == (1, 1, pooled, pooled)
    assert out[0, 0, -1, -1] == 1, "the last pixel is in the last window"


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("architecture", [a for a in EVERY if a.name != "b-resnet-110"], ids=title)
def test_every_exit_has_as_many_logits_as_classes(architecture, classes):
    fewer = Architecture(architecture.name, architecture.variant, classes)
    network = build(fewer, normalisation_for(fewer)).eval()
    assert exit_logits(network, pictures(fewer, 2)).shape == (network.exits, 2, classes)


def test_lenet_variants_are_the_same_function():
    code, paper = random_network(LENET_CODE), build(Architecture("b-lenet"), normalisation_for(LENET_CODE)).eval()
    # In the paper's variant the shared pooling and ReLU move from behind the cut to before it.
    names = {
        "stages.0.trunk.0": "stages.0.trunk.0",
        **{f"stages.0.head.{index}": f"stages.0.head.{index + 2}" for index in (0, 4)},
        **{f"stages.1.trunk.{index}": f"stages.1.trunk.{index + 2}" for index in (0, 3, 7)},
        "stages.1.head": "stages.1.head",
    }
    weights = code.state_dict()
    assert len(weights) == 2 * len(names)
    paper.load_state_dict({f"{to}.{kind}": weights[f"{of}.{kind}"] for to, of in names.items() for kind in WEIGHT})

    @some
    @given(batches(LENET_CODE, 8))
    def check(images):
        np.testing.assert_array_equal(exit_logits(paper, images), exit_logits(code, images))

    check()


WEIGHT = ("weight", "bias")


@given(seed=st.integers(0, 2**32), channels=st.integers(1, 6), scale=st.sampled_from([0.1, 1, 30, 1000]))
@some
def test_local_response_norm_equals_torchs_with_its_gradients(seed, channels, scale):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(2, channels, 4, 5, generator=generator)
    upstream = torch.randn(x.shape, generator=generator)
    outputs, gradients = [], []
    for layer in (LocalResponseNorm(), nn.LocalResponseNorm(3, alpha=1.5e-4, beta=0.75, k=2)):
        given_x = x.clone().requires_grad_()
        out = layer(given_x)
        (out * upstream).sum().backward()
        outputs.append(out.detach())
        gradients.append(given_x.grad)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_local_response_norm_of_one_pixel_by_hand():
    x = torch.tensor([100.0, 200.0, 300.0, 400.0]).view(1, 4, 1, 1)
    sums = [100**2 + 200**2, 100**2 + 200**2 + 300**2, 200**2 + 300**2 + 400**2, 300**2 + 400**2]
    expected = [value / (2 + 5e-5 * total) ** 0.75 for value, total in zip([100, 200, 300, 400], sums, strict=True)]
    np.testing.assert_allclose(LocalResponseNorm()(x).ravel().numpy(), expected, rtol=1e-5)


def silent(block):
    """*block* with convolutions that add nothing, so that only its shortcut is heard."""
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)
    return block.eval()


def test_a_halving_shortcut_pads_zeros_before_the_old_channels():
    x = torch.rand(2, 3, 5, 5)
    out = silent(ResidualBlock(3, 7, stride=2))(x)
    assert out.shape == (2, 7, 3, 3)
    assert not out[:, :4].any()
    torch.testing.assert_close(out[:, 4:], x[:, :, ::2, ::2], rtol=0, atol=0)


def test_a_plain_shortcut_is_the_input_before_the_relu():
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(silent(ResidualBlock(3, 3))(x), x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 3, 1), (2, 4, 2)])
def test_a_residual_block_is_relu_of_shortcut_plus_two_normalised_convolutions(inputs, outputs, stride):
    torch.manual_seed(1)
    block = ResidualBlock(inputs, outputs, stride).eval()
    for norm in (block.norm1, block.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, inputs, 6, 6)

    def normalised(norm, h):
        return torch.nn.functional.batch_norm(
            h, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=2e-5
        )

    h = torch.nn.functional.conv2d(x, block.conv1.weight, block.conv1.bias, stride, 1)
    h = torch.nn.functional.conv2d(normalised(block.norm1, h).relu(), block.conv2.weight, block.conv2.bias, 1, 1)
    shortcut = torch.cat([torch.zeros(2, outputs - inputs, 6 // stride, 6 // stride), x[:, :, ::stride, ::stride]], 1)
    torch.testing.assert_close(block(x), (normalised(block.norm2, h) + shortcut).relu())


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_resnet_110_has_54_blocks_and_110_layers(variant):
    network = random_network(Architecture("b-resnet-110", variant))
    blocks = [block for index in range(3) for block in layers(network.stage(index).trunk, ResidualBlock)]
    assert len(blocks) == 54
    assert len([block for block in blocks if block.stride == 2]) == 2
    trunk = nn.ModuleList(network.stage(index).trunk for index in range(3))
    assert len(layers(trunk, nn.Conv2d)) + 1 == 110, "one linear layer ends the trunk"
    before_second_exit = [*layers(network.stage(0).trunk, nn.Conv2d), *layers(network.stage(1).trunk, nn.Conv2d)]
    assert len(before_second_exit) == 37


def test_resnet_first_convolution_is_unpadded_in_the_code_and_padded_in_the_paper():
    code, paper = (random_network(Architecture("b-resnet-110", variant)) for variant in ("code", "paper"))
    assert code.stage(0).trunk[0].padding == (0, 0)
    assert paper.stage(0).trunk[0].padding == (1, 1)
    assert all(layer.bias is not None for layer in layers(code, nn.Conv2d))
    trunk = nn.ModuleList(paper.stage(index).trunk for index in range(3))
    assert all(layer.bias is None for layer in layers(trunk, nn.Conv2d))


def test_resnet_code_branches_before_the_first_block_and_paper_after_it():
    code, paper = (random_network(Architecture("b-resnet-110", variant)) for variant in ("code", "paper"))
    assert [len(layers(network.stage(0).trunk, ResidualBlock)) for network in (code, paper)] == [0, 1]
    assert [len(layers(network.stage(1).trunk, ResidualBlock)) for network in (code, paper)] == [18, 17]
    assert layers(code.stage(2).trunk, nn.AvgPool2d)[0].kernel_size == 6


def test_alexnet_code_branches_before_the_relu_and_paper_after_the_shared_layers():
    for variant, activated in (("code", False), ("paper", True)):
        network = random_network(Architecture("b-alexnet", variant))
        with torch.inference_mode():
            x = network.normalisation(torch.from_numpy(pictures(ALEXNET_CODE, 2)))
            for index in (0, 1):
                x = network.stage(index).trunk(x)
                assert bool((x >= 0).all()) is activated


def test_batch_normalisation_keeps_chainers_epsilon_and_decay():
    torch.manual_seed(0)
    for norm in layers(build(RESNET_CODE, normalisation_for(RESNET_CODE)), nn.BatchNorm2d):
        assert (norm.eps, norm.momentum) == (2e-5, 0.1)


@pytest.mark.parametrize(
    ("architecture", "convolution_scale"), [(LENET_CODE, 1), (ALEXNET_CODE, 1), (RESNET_CODE, math.sqrt(2))], ids=title
)
def test_fresh_weights_are_lecun_normal_with_zero_biases(architecture, convolution_scale):
    network = random_network(architecture)
    standardised = {nn.Conv2d: [], nn.Linear: []}
    for kind, values in standardised.items():
        for layer in layers(network, kind):
            fan_in = layer.weight[0].numel()
            values.append((layer.weight.detach() * math.sqrt(fan_in)).ravel())
            assert layer.bias is None or not layer.bias.any()
    convolutions, linear = (torch.cat(values) for values in standardised.values())
    assert convolutions.mean().item() == pytest.approx(0, abs=0.05)
    assert convolutions.std().item() == pytest.approx(convolution_scale, rel=0.03)
    assert linear.std().item() == pytest.approx(1, rel=0.03)
    # A normal draw has 4.55 % of its values beyond two deviations, a uniform one none.
    assert (linear.abs() > 2).float().mean().item() == pytest.approx(0.0455, abs=0.01)


def test_equal_seeds_build_equal_networks():
    first, second, other = (seeded_weights(seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def seeded_weights(seed):
    torch.manual_seed(seed)
    return build(LENET_CODE, normalisation_for(LENET_CODE)).state_dict()


@pytest.mark.parametrize(("name", "variant"), [("lenet", "code"), ("", "paper"), ("b-lenet", "Paper")])
def test_unknown_names_are_refused_with_the_known_ones(name, variant):
    with pytest.raises(UnknownModel, match=r"b-lenet, b-alexnet, b-resnet-110|paper, code"):
        Architecture(name, variant)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_a_classifier_of_fewer_than_two_classes_is_refused(classes):
    with pytest.raises(InvalidInput, match=str(classes)):
        Architecture("b-lenet", "paper", classes)


def test_the_zoo_finds_shipped_names_and_folders(tmp_path):
    assert "lenet-fashion" in zoo.shipped()
    for name in zoo.shipped():
        assert (zoo.find(name) / "manifest.json").is_file()
    assert zoo.find(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["no-such-model", "../zoo/manifest.json", "lenet-fashion/manifest.json"])
def test_the_zoo_names_what_it_has_when_asked_for_something_else(name):
    with pytest.raises(UnknownModel, match="lenet-fashion"):
        zoo.find(name)


def test_the_zoo_finds_what_runs_have_made_and_shipped_names_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own", "lenet-fashion", "unfinished"):
        (tmp_path / "runs" / name / "artifact").mkdir(parents=True)
        if name != "unfinished":
            (tmp_path / "runs" / name / "artifact" / "manifest.json").touch()
    assert zoo.trained() == ["lenet-fashion", "own"]
    assert zoo.find("own").resolve() == tmp_path / "runs" / "own" / "artifact"
    assert "runs" not in zoo.find("lenet-fashion").parts
    with pytest.raises(UnknownModel, match="trained here are lenet-fashion, own"):
        zoo.find("unfinished")
