"""Exits on models nobody here wrote: what crosses a cut, whole equals split, and clear words where no cut can be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attached import attached, check_split, grey
from torch import nn
from torch.nn import functional as F
from toy_models import CLASSES, SHAPE, TOYS, Chain, Functional, Nested, Shared, Straight, Tokens, TwoBranches, UNet

from branchynet import attach
from branchynet.errors import InvalidInput
from branchynet.models.heads import default_head
from branchynet.network.counting import measure_cost
from branchynet.network.onnx_export import export_stage
from branchynet.surgery.attach import cuts_table, legal_cuts


def made(toy, *arguments):
    torch.manual_seed(1)
    return toy(*arguments)


def toy_attached(model, after, **options):
    return attached(model, after, SHAPE, CLASSES, **options)


@pytest.mark.parametrize("toy", TOYS)
def test_whole_and_split_equal_the_model_at_every_legal_cut(toy):
    model = made(toy)
    cuts = legal_cuts(model, SHAPE)
    assert cuts
    network = toy_attached(model, [cut.name for cut in cuts])
    check_split(model, network)
    shapes = [stage.output_shape for stage in measure_cost(network).stages]
    assert [4 * np.prod(shape) for shape in shapes[:-1]] == [cut.bytes for cut in cuts]


@pytest.mark.parametrize(
    ("toy", "name", "crossing"),
    [
        (Straight, "0", [(4, 8, 8)]),
        (UNet, "down1", [(4, 4, 4), (3, 8, 8)]),
        (UNet, "middle", [(8, 2, 2), (3, 8, 8), (4, 4, 4)]),
        (UNet, "up1", [(4, 4, 4), (3, 8, 8)]),
        (UNet, "up2", [(4, 8, 8)]),
        (TwoBranches, "left", [(4, 8, 8), (4, 8, 8)]),
        (TwoBranches, "right", [(4, 4, 4), (4,)]),
        (Nested, "pair", [(4, 8, 8), (2, 8, 8)]),
        (Nested, "join", [(4,), (128,)]),
        (Tokens, "embed", [(4, 8)]),
        (Tokens, "blocks.0", [(5, 8)]),
    ],
)
def test_what_crosses_is_what_is_used_later_and_no_constant(toy, name, crossing):
    (cut,) = [cut for cut in legal_cuts(made(toy), SHAPE) if name in (cut.name, *cut.aliases)]
    assert [carried.shape for carried in cut.crossing] == crossing


def test_the_macs_on_either_side_are_those_of_the_layers():
    first, second = 64 * 4 * 27, 16 * 6 * 36
    cuts = {cut.name: cut for cut in legal_cuts(made(Straight), SHAPE)}
    assert (cuts["0"].macs_before, cuts["0"].macs_after) == (first, second + 96 * CLASSES)
    assert "0.2" in cuts["0"].aliases
    costs = measure_cost(toy_attached(made(Straight), ["0", "1"], head=default_head)).stages
    assert [stage.trunk_macs for stage in costs] == [first, second, 0]
    assert costs[-1].head_macs == 96 * CLASSES


def test_the_table_shows_every_cut():
    cuts = legal_cuts(made(UNet), SHAPE)
    lines = cuts_table(cuts).splitlines()
    assert len(lines) == len(cuts) + 1
    assert lines[3].split() == ["middle", "8×2×2", "+", "3×8×8", "+", "4×4×4", "1.2", "18.4%"]


def test_weights_are_the_models_own_and_its_code_is_untouched():
    model = made(TwoBranches)
    before = set(vars(model))
    network = toy_attached(model, ["stem"])
    assert set(vars(model)) == before
    ours = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in model.parameters()} <= ours


@pytest.mark.parametrize("toy", [Straight, Functional, TwoBranches])
def test_training_mode_computes_what_the_model_does_in_training(toy):
    model = made(toy)
    network = toy_attached(model, [legal_cuts(model, SHAPE)[0].name]).train()
    model.train()
    x = torch.randn(4, *SHAPE)
    outputs = []
    for forward in (model, network.trunk):
        torch.manual_seed(5)
        outputs.append(forward(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    torch.manual_seed(6)
    assert not torch.equal(model(x), outputs[0])  # dropout was at work


def test_gradients_pass_through_heads_and_layers_that_work_in_place():
    network = toy_attached(made(Straight), ["0", "1.0"], head=default_head).train()
    sum(logits.sum() for logits in network(torch.randn(4, *SHAPE))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((6, 8, 9), [nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]),
        ((5, 8), [nn.LayerNorm, nn.Linear]),
        ((7,), []),
        ((8, 8, 6), [nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]),
    ],
)
def test_the_default_head_fits_the_shape(shape, layers):
    head = default_head(shape, CLASSES).eval()
    assert head(torch.randn(2, *shape)).shape == (2, CLASSES)
    assert [type(layer) for layer in head.children()][-len(layers) or 9 :] == layers


def test_every_token_counts_alike_for_the_default_head():
    head, tokens = default_head((5, 8), CLASSES).eval(), torch.randn(2, 5, 8)
    torch.testing.assert_close(head(tokens), head(tokens.flip(1)))
    assert not torch.equal(head(tokens), head(tokens[:, :1]))


def test_a_channels_last_map_is_read_by_channels():
    head = default_head((8, 8, 6), CLASSES).eval()
    torch.manual_seed(0)
    same = default_head((6, 8, 8), CLASSES).eval()
    same.load_state_dict({f"{int(n[0]) - 1}{n[1:]}": tensor for n, tensor in head.state_dict().items()})
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(head(x.permute(0, 2, 3, 1)), same(x))


def test_a_head_of_ones_own_looks_at_the_submodules_output():
    seen = []

    def head(shape, classes):
        seen.append(shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))

    network = toy_attached(made(UNet), ["down1", "up1"], head=head)
    assert seen == [(4, 4, 4), (4, 4, 4)]
    x = torch.randn(2, *SHAPE)
    features, logits = network.stage(0)(x)
    linear = network.stage(0).head[1][1]
    torch.testing.assert_close(logits, linear(features[:, :64]))


def test_the_last_linear_layer_can_be_replaced():
    model = made(TwoBranches)
    with pytest.raises(InvalidInput, match="gives 5 logits, classes is 3"):
        attached(model, ["stem"], SHAPE, 3)
    network = attached(model, ["stem"], SHAPE, 3, replace_classifier=True)
    assert [logits.shape for logits in network(torch.randn(2, *SHAPE))] == [(2, 3), (2, 3)]
    assert model.head[1].out_features == CLASSES
    with pytest.raises(InvalidInput, match="does not end with a linear layer"):
        attached(made(UNet), ["down1"], SHAPE, 3, replace_classifier=True)


def chain(between, width=4):
    return made(Chain, between, width)


def pooled(m, x):
    return m.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "after", "message"),
    [
        (made(UNet), ["dwn1"], r"no submodule 'dwn1'; near names are .*down1"),
        (made(UNet), [], "after is .*; it must list"),
        (made(UNet), "down1", "after is 'down1'"),
        (made(UNet), ["down1", "down1"], "'down1' is named twice"),
        (made(UNet), ["up1", "down2"], "'down2' does not end after 'up1'.*in the order down2, up1"),
        (made(Straight), ["0.2", "0"], "'0' does not end after '0.2'"),
        (made(Shared), ["mix"], "'mix' is called 3 times"),
        (made(Shared), ["again"], "'mix' is called 3 times"),
        (made(Shared), ["head"], "nothing is computed after submodule 'head'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES), nn.Identity()), ["1"], "nothing is computed after"),
        (chain(lambda m, x: pooled(m, m.one(x))), ["unused"], "'unused' is never called"),
        (chain(lambda m, x: (m.unused(x), pooled(m, m.one(x)))[1]), ["unused"], "output of submodule 'unused' is not"),
        (chain(lambda m, x: (k := x > 0, pooled(m, m.two(m.one(x)) * k[:, :1]))[1]), ["one"], "gt would.*torch.bool"),
        (chain(lambda m, x: (k := 0 * x.sum(), pooled(m, m.two(m.one(x)) + k))[1]), ["one"], r"mul .*shape \(\)"),
        (chain(lambda m, x: (k := 0 * x[0], pooled(m, m.two(m.one(x)) + k[:1]))[1]), ["one"], "mul .*must be the b"),
        (
            chain(lambda m, x: pooled(m, m.two(m.one(x)) if x.max() < 99 else m.one(x))),
            ["one"],
            r"on the data.*line \d",
        ),
        (chain(lambda m, x: pooled(m, m.one(x) * (2.0 if len(x) == 3 else 1.0))), ["one"], "depends on the batch size"),
        (
            chain(lambda m, x: pooled(m, m.one(x) * (2.0 if len(x) > 3 else 1.0))),
            ["one"],
            "not compute the same for a b",
        ),
        (chain(lambda m, x: pooled(m, m.one(x) + 0 * float(x.sum()))), ["one"], "number is taken out of a tensor"),
        (
            chain(lambda m, x: pooled(m, m.two(m.one(x)) if m.training else m.one(x))),
            ["two"],
            "in training it computes other",
        ),
        (chain(lambda m, x: {"logits": pooled(m, m.one(x))}), ["one"], "the model gives a dict"),
        (
            chain(lambda m, x: SimpleNamespace(logits=pooled(m, m.one(x)))),
            ["one"],
            r"gives a SimpleNamespace.*returns model\(x\).logits",
        ),
        (chain(lambda m, x: m.one(x)), ["one"], "it must give torch.float32 logits"),
        (chain(lambda m, x: m.one(x.flatten(1))), ["one"], r"does not run on inputs of shape \(2, 3, 8, 8\)"),
    ],
)
def test_what_cannot_be_is_refused_by_name(model, after, message):
    with pytest.raises(InvalidInput, match=message):
        toy_attached(model, after)


def test_a_mask_of_the_input_is_computed_where_it_is_used():
    # The comparison stands behind the cut: then the input crosses, which can be carried.
    model = chain(lambda m, x: pooled(m, m.two(m.one(x)) * (x > 0)[:, :1]))
    check_split(model, toy_attached(model, ["one"]))


def test_in_place_changes_seen_from_both_sides_are_found_out():
    def between(m, x):
        y = m.one(x)
        flat = y.flatten(1)
        z = m.two(y)
        flat.relu_()
        return pooled(m, z + y)

    model = chain(between)
    check_split(model, toy_attached(model, ["one"]))
    with pytest.raises(InvalidInput, match="changes a tensor in place"):
        toy_attached(model, ["two"])


def test_the_normalisation_must_fit_the_channels():
    with pytest.raises(InvalidInput, match="normalisation has 1 channels"):
        attach(made(Straight), ["0"], CLASSES, input_shape=SHAPE, normalisation=grey(1))


def test_a_model_in_training_is_given_back_as_it_was_when_a_cut_is_refused():
    model = made(Straight).train()
    statistics = model[0][1].running_mean.clone()
    with pytest.raises(InvalidInput):
        toy_attached(model, ["3"])
    legal_cuts(model, SHAPE)
    assert all(module.training for module in model.modules())
    assert torch.equal(model[0][1].running_mean, statistics)


def test_what_cannot_be_looked_into_is_still_cut_around():
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.a(x) if x.max() < 99 else F.relu(x)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Choosy(), nn.Flatten(), nn.Linear(256, CLASSES))
    assert [cut.name for cut in legal_cuts(model, SHAPE)] == ["0", "1", "2"]
    check_split(model, toy_attached(model, ["0", "1"]))
    with pytest.raises(InvalidInput, match=r"submodule '1' cannot be cut inside: .*data.*test_attach\.py"):
        toy_attached(model, ["1.a"])


def test_packed_tensors_can_be_exported():
    network = toy_attached(made(UNet), ["down1", "up1"])
    assert network.part(1, 2).stage(1)(torch.randn(2, 256))[0].shape == (2, 256)
    export_stage(network, 1, (256,))  # which tries the graph beside torch, in other batch sizes
