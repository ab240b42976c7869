"""Models that cannot be given exits are refused with what to call, and every model is left as it was."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from attached import attached, check_split
from torch import nn
from torch.nn import functional as F
from toy_models import CLASSES, SHAPE, Functional, Straight, conv

from branchynet.errors import InvalidInput
from branchynet.network.counting import measure_cost
from branchynet.network.onnx_export import export_stage
from branchynet.surgery.attach import legal_cuts


def plain(*last):
    torch.manual_seed(1)
    return nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES), *last)


def exported():
    return torch.export.export(plain(), (torch.randn(2, *SHAPE),))


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates most of this, and uses what it deprecates
        return make()


def quantised():
    return quietly(lambda: torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear}))


def with_parameter(value):
    model = plain()
    model.more = nn.Parameter(value, requires_grad=False)
    return model


def with_buffer(value):
    model = plain()
    model.register_buffer("table", value)
    return model


def compiled_in_place():
    model = plain()
    model.compile(backend="eager")
    return model


KINDS = {
    "float16": (lambda: plain().half(), r"'0.weight'.* is torch.float16.*call model.float\(\)"),
    "bfloat16": (lambda: plain().bfloat16(), r"torch.bfloat16.*call model.float\(\)"),
    "float64": (lambda: plain().double(), r"torch.float64.*call model.float\(\)"),
    "a bfloat16 table": (lambda: with_buffer(torch.ones(2, dtype=torch.bfloat16)), "buffer 'table' .* torch.b"),
    "another device": (lambda: plain().to("meta"), "device meta.*to_empty"),
    "one layer elsewhere": (lambda: (m := plain(), m[3].to("meta"))[0], "parameter '3.weight'.*device meta"),
    "complex": (lambda: with_parameter(torch.ones(2, dtype=torch.complex64)), "torch.complex64.*view_as_real"),
    "sparse": (lambda: with_parameter(torch.eye(2).to_sparse()), "'more'.*plain dense"),
    "quantised": (quantised, "submodule '3'.*quantised.*before convert"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), "has no values yet; run the model once"),
    "exported": (exported, "torch.export.ExportedProgram; give torch.export.unflatten"),
    "exported module": (lambda: exported().module(), "evaluation mode: NotImplementedError.*torch.export"),
    "unflattened": (lambda: quietly(lambda: torch.export.unflatten(exported())), r"does not run .* \(1, 3, 8, 8\)"),
    "scripted": (lambda: quietly(lambda: torch.jit.script(plain())), "TorchScript.*load_state_dict"),
    "traced": (lambda: quietly(lambda: torch.jit.trace(plain(), torch.ones(1, *SHAPE))), "TorchScript"),
    "a scripted layer": (
        lambda: nn.Sequential(quietly(lambda: torch.jit.script(conv(3, 4))), nn.Flatten(), nn.Linear(256, CLASSES)),
        "submodule '0' of the model is TorchScript",
    ),
    "compiled": (lambda: torch.compile(plain(), backend="eager"), "compiled._orig_mod"),
    "compiled in place": (compiled_in_place, "before that"),
    "wrapped": (lambda: nn.DataParallel(plain()), "DataParallel.*wrapper.module"),
    "a function": (lambda: plain().forward, "is a method; it must be a torch.nn.Module"),
    "a class": (lambda: Straight, "is the class Straight"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_a_kind_that_cannot_be_cut_is_refused_with_what_to_call(kind):
    make, message = KINDS[kind]
    model = make()
    for ask in (lambda: legal_cuts(model, SHAPE), lambda: attached(model, ["0"], SHAPE, CLASSES)):
        with pytest.raises(InvalidInput, match=message):
            ask()


def test_double_tables_are_no_reason_to_refuse():
    model = with_buffer(torch.ones(3, dtype=torch.float64))
    check_split(model, attached(model, ["0"], SHAPE, CLASSES))


class Ends(nn.Module):
    """A model whose last step is a function."""

    def __init__(self, end):
        super().__init__()
        self.body, self.end = plain(), end

    def forward(self, x):
        return self.end(self.body(x))


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (lambda x: F.softmax(x, 1), "each row sums to 1"),
        (lambda x: (F.softmax(x, 1) + F.softmax(2 * x, 1)) / 2, "each row sums to 1"),
        (lambda x: F.softmin(x, 1).contiguous(), "each row sums to 1"),
        (torch.sigmoid, "it ends in a sigmoid"),
        (lambda x: x.sigmoid_().view(-1, CLASSES), "it ends in a sigmoid"),
        (F.hardsigmoid, "it ends in a sigmoid"),
    ],
)
def test_probabilities_are_not_taken_for_logits(end, found):
    for ask in (legal_cuts, lambda model, shape: attached(model, ["body.0"], shape, CLASSES)):
        with pytest.raises(InvalidInput, match=rf"probabilities \({found}.*nn.Identity"):
            ask(Ends(end), SHAPE)


@pytest.mark.parametrize(
    "end",
    [
        lambda x: F.log_softmax(x, 1),  # its softmax gives the probabilities back
        lambda x: x * torch.sigmoid(x),
        lambda x: 0 * x,  # a classifier that starts from 0
        F.relu,
        F.normalize,
    ],
)
def test_logits_of_any_range_are_taken(end):
    attached(Ends(end), ["body.0"], SHAPE, CLASSES)


class Between(nn.Module):
    """Two layers, and what a test wants to happen to the map between them."""

    def __init__(self, happens):
        super().__init__()
        self.one, self.happens, self.head = conv(3, 4), happens, nn.Linear(256, CLASSES)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        return self.head(self.happens(self, self.one(x)).flatten(1))


class StuckInTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def counted(model, x):
    model.n += 1
    return x * model.n


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Between(lambda _, x: x - x.mean(0)), "beside another one than alone, first in .*'head'"),
        (lambda: Between(lambda _, x: x / x.amax()), "beside another"),
        (lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), plain()), "'0' gives.*track_run"),
        (lambda: nn.Sequential(StuckInTraining(3), plain()), "beside another one than alone, first in .*'0'"),
        (lambda: nn.Sequential(conv(3, 4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4, track_running_stats=False),
                               nn.Flatten(), nn.Linear(4, CLASSES)), "in submodule '2'.*more than 1 value per channel"),
        (lambda: Between(lambda _, x: F.dropout(x, 0.5)), "differently the second time, first in .*'head'.*random"),
        (lambda: Between(counted), "differently the second time.*keeps"),
        (lambda: Between(lambda _, x: x / 0), "not finite"),
        (lambda: Between(lambda _, x: x @ torch.ones(3, 3)), r"does not run .* \(2, 3, 8, 8\): RuntimeE"),
    ],
)  # fmt: skip
def test_an_answer_that_depends_on_more_than_its_image_is_refused(model, message):
    for ask in (legal_cuts, lambda model, shape: attached(model, ["0"], shape, CLASSES)):
        with pytest.raises(InvalidInput, match=message):
            made = model()
            made.add_module("0", made.one) if isinstance(made, Between) else None
            ask(made, SHAPE)


def count_in_place(model, x):
    model.n += 1
    return x


def count_anew(model, x):
    model.n = model.n + 1
    return x


def count_in_python(model, x):
    model.calls = getattr(model, "calls", 0) + 1
    return x


def collect(model, x):
    model.__dict__.setdefault("seen", []).append(x)
    model.one.__dict__["last"] = x
    return x


def clamp_weights(model, x):
    model.one.weight.data.clamp_(-0.01, 0.01)
    model.one.bias.requires_grad_(False)
    return x


def draw(model, x):
    torch.rand(1), random.random(), np.random.rand()
    return x


def stop(model, x):
    model.n += 1
    return x if x.max() < 99 else 0 * x


def snapshot(model):
    """All that there is to know of *model* and of the random generators."""
    return {
        "attributes": [{**vars(module)} for module in model.modules()],
        "containers": [
            {name: copy.copy(held) for name, held in vars(module).items() if isinstance(held, dict | list)}
            for module in model.modules()
        ],
        "tensors": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "random": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
    }


def check_same(before, after):
    for old, new in zip(before["attributes"], after["attributes"], strict=True):
        assert old.keys() == new.keys()
        assert all(new[key] is old[key] for key in old)
    for old, new in zip(before["containers"], after["containers"], strict=True):
        for key, held in old.items():
            assert list(held) == list(new[key]) if isinstance(held, dict) else held == new[key], key
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in before["tensors"].items())
    assert before["gradients"] == after["gradients"]
    assert before["random"] == after["random"]


@pytest.mark.parametrize(
    "habit", [count_in_place, count_anew, count_in_python, collect, clamp_weights, draw, stop, counted]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_as_it_was_whatever_it_does_and_whatever_is_raised(habit, training):
    model = Between(habit).train(training)
    model.head.training = not training
    before = snapshot(model)
    try:
        cuts = legal_cuts(model, SHAPE)
    except InvalidInput:
        assert habit in (stop, counted, clamp_weights)
    else:
        assert [cut.name for cut in cuts] == ["one"]
    check_same(before, snapshot(model))
    with pytest.raises(InvalidInput):
        attached(model, ["head"], SHAPE, CLASSES)
    check_same(before, snapshot(model))


@pytest.mark.parametrize("habit", [count_in_place, count_anew, count_in_python, collect, draw])
def test_a_model_that_counts_its_calls_can_be_cut(habit):
    model = Between(habit)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = attached(model, ["one"], SHAPE, CLASSES)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "seen")
    check_split(model, network)


HEADS = {
    "no module": (lambda shape, classes: len, "head after '0' is a builtin_function_or_method"),
    "an error": (
        lambda shape, classes: nn.Linear(*shape, *shape),
        r"cannot be made for a tensor of shape \(4, 8, 8\): TypeError",
    ),
    "another shape": (lambda shape, classes: nn.Linear(7, classes), "head after '0' does not run on inputs of shape"),
    "too few": (lambda shape, classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "gives 3 logits, classes is 5"),
    "probabilities": (
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes), nn.Softmax(1)),
        "head after '0' gives probabilities",
    ),
    "half precision": (
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(256, classes)).half(),
        "of the head after '0' is torch.float16",
    ),
    "in place": (
        lambda shape, classes: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(256, classes)),
        "changes its input in place",
    ),
}


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_that_would_not_serve_is_refused_before_anything_is_trained(fault):
    head, message = HEADS[fault]
    with pytest.raises(InvalidInput, match=message):
        attached(nn.Sequential(conv(3, 4), *plain()[2:]), ["0"], SHAPE, CLASSES, head)


def test_a_lazy_head_gets_its_weights():
    network = attached(
        plain(), ["0"], SHAPE, CLASSES, lambda _, classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    )
    assert network.stage(0).head[1].weight.shape == (CLASSES, 256)


def test_heads_differ_though_the_generators_are_put_back_after_looking_at_the_model():
    torch.manual_seed(7)
    first, second = (attached(plain_of(8), ["0"], SHAPE, CLASSES, linear) for _ in range(2))
    assert not torch.equal(first.stage(0).head[1].weight, second.stage(0).head[1].weight)


def plain_of(width):
    return nn.Sequential(conv(3, width), nn.Flatten(), nn.Linear(64 * width, CLASSES))


def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))


def test_parametrised_weights_are_cut_and_counted():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(conv(3, 4)), *plain()[2:])
    network = attached(model, ["0"], SHAPE, CLASSES)
    check_split(model, network)
    assert measure_cost(network).stages[0].trunk_macs == 64 * 4 * 27


def test_inference_mode_around_it_does_no_harm():
    model = Functional()
    with torch.inference_mode():
        network = attached(model, ["one"], SHAPE, CLASSES)
    check_split(model, network)
    assert not any(parameter.is_inference() for parameter in network.parameters())


def test_an_operator_that_cannot_be_exported_is_named():
    model = nn.Sequential(conv(3, 4), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(36, CLASSES))
    network = attached(model, ["0"], SHAPE, CLASSES)
    with pytest.raises(InvalidInput, match=r"stage 1 cannot be exported.*adaptive_max_pool2d") as caught:
        export_stage(network, 1, (4, 8, 8))
    assert "\n" not in str(caught.value)
