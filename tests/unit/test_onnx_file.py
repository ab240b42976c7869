"""Whole models in ONNX files: places with the names of tensors, the file's own answers; and what is refused."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from attached import attached
from onnx import TensorProto, helper
from torch import nn

from branchynet.errors import DamagedData, InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.models.heads import default_head
from branchynet.network.onnx_export import on_engine
from branchynet.network.onnx_import.operators import OPERATORS
from branchynet.network.runner import Engine
from branchynet.surgery.attach import cuts_table, legal_cuts
from branchynet.surgery.model_sources import find_model

CLASSES, SHAPE = 3, (3, 16, 16)
RANDOM = np.random.default_rng(0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Hardswish(), nn.Conv2d(8, 8, 3, padding=1))
        self.down = nn.Sequential(nn.ReLU6(), nn.Dropout(), nn.AvgPool2d(2))
        self.last = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = self.down(x + self.block(x))
        return self.last(x.view(x.size(0), -1))


class Tokens(nn.Module):
    """A token for each image beside those of its patches, attention over all, linear layers on three dimensions."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.own, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x):
        batch = x.shape[0]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.own.expand(batch, -1, -1), x], 1) + self.places
        q, k, v = self.qkv(self.norm(x)).reshape(batch, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, 5, 8))
        return self.last(nn.functional.gelu(x)[:, 0])


def export(folder, model, *, opset=17, batch=None):
    """*model* as the exporter of many files wrote it, and torch's newer one for opset 20; for any batch unless said."""
    torch.manual_seed(0)
    model = model().eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 1.5)
    file, images = folder / "model.onnx", torch.randn(batch or 2, *SHAPE)
    free = {
        "dynamic_axes": {"x": {0: "batch"}} if batch is None and opset < 20 else None,
        "dynamic_shapes": ({0: torch.export.Dim("batch")},) if batch is None and opset >= 20 else None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each exporter of what it, or torch, deprecates
        torch.onnx.export(
            model,
            (images,),
            file,
            opset_version=opset,
            input_names=["x"],
            output_names=["logits"],
            dynamo=opset >= 20,
            verbose=False,
            **free,
        )
    return file


def answers(file, x, batch=None):
    """What ONNX Runtime gives for the file as it is."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    parts = [x[at : at + (batch or len(x))] for at in range(0, len(x), batch or len(x))]
    return np.concatenate([session.run(None, {taken.name: part})[0].reshape(len(part), -1) for part in parts])


def check_answers(file, found, network, batch=None):
    """Each engine and number of images gives the file's answers, but for rounding."""
    never = ExitRule.never(network.exits)
    for count in (1, 3, 4):
        images = RANDOM.integers(0, 256, (count * (batch or 1), *found.input_shape), np.uint8)
        expected = answers(file, (images.astype(np.float32) / 255 - 0.5) / 0.25, batch)
        got = network.resume(images, 0, network.total_stages, never).logits
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


CASES = [
    (Residual, {"opset": 11}, ["/stem/stem.3/MaxPool_output_0", "/down/down.0/Clip_output_0"]),
    (Residual, {"opset": 17, "batch": 1}, ["/stem/stem.3/MaxPool_output_0", "/Add_output_0"]),
    (Residual, {"opset": 20}, ["max_pool2d", "hardswish"]),
    (Tokens, {"opset": 14}, ["/Add_output_0", "/Add_1_output_0"]),
    (Tokens, {"opset": 17, "batch": 1}, ["/Add_output_0", "/Add_1_output_0"]),
    (Tokens, {"opset": 17, "batch": 2}, ["/Add_output_0", "/Add_1_output_0"]),
]


@pytest.mark.parametrize(("model", "options", "places"), CASES)
def test_a_file_has_places_named_by_its_tensors_and_keeps_its_answers(tmp_path, model, options, places):
    file = export(tmp_path, model, **options)
    found = find_model(str(file))
    assert (found.trained, found.input_shape) == (None, SHAPE)
    cuts = legal_cuts(found.model, SHAPE)
    assert set(places) <= {cut.name for cut in cuts}, cuts_table(cuts)
    network = attached(found.model, places, SHAPE, CLASSES, head=default_head)
    check_answers(file, found, network, options.get("batch"))


def test_an_artifacts_graphs_keep_the_answers_and_a_new_last_layer_may_take_the_place_of_the_files(tmp_path):
    file = export(tmp_path, Tokens, batch=1)
    found = find_model(str(file))
    network = attached(found.model, ["/Add_1_output_0"], SHAPE, CLASSES)
    check_answers(file, found, on_engine(network, Engine.ONNX), 1)
    renewed = attached(found.model, ["/Add_1_output_0"], SHAPE, 7, replace_classifier=True)
    assert renewed(torch.zeros(2, *SHAPE))[-1].shape == (2, 7)
    assert {parameter.shape for parameter in renewed.stage(1).parameters()} == {(7, 8), (7,)}
    # What layers learn with --joint; tables and running statistics stay.
    assert "/patches/Conv_output_0.weight" in dict(found.model.named_parameters())
    assert any(name.endswith("row") or name.endswith("input_0") for name, _ in found.model.named_buffers())


# --- graphs written by hand ------------------------------------------------------------------------------------------


def weights(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def write(folder, nodes, constants=(), *, takes=("x",), shape=("batch", *SHAPE), kind=TensorProto.FLOAT, gives=("y",)):
    """A file with *nodes*, given as operator, inputs, output and attributes, and *constants* by name."""
    made = [
        helper.make_node(operator, inputs, [output], name=f"/{output}", **(more[0] if more else {}))
        for operator, inputs, output, *more in nodes
    ]
    graph = helper.make_graph(
        made,
        "a model",
        [helper.make_tensor_value_info(name, kind, shape) for name in takes],
        [helper.make_tensor_value_info(name, kind, None) for name in gives],
        [onnx.numpy_helper.from_array(value, name) for name, value in dict(constants).items()],
    )
    domains = {node.domain for node in made} | {""}
    opsets = [helper.make_opsetid(domain, 20 if not domain else 1) for domain in sorted(domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    return folder / "model.onnx"


POOL = [("GlobalAveragePool", ["x"], "pooled"), ("Flatten", ["pooled"], "flat")]
LINEAR = [*POOL, ("MatMul", ["flat", "w"], "product"), ("Add", ["b", "product"], "y")]
W = {"w": weights(3, 5), "b": weights(5)}


def test_names_that_torch_has_no_room_for_are_brought_to_such(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], "a.b"),
        ("Relu", ["a.b"], "a"),
        ("Relu", ["a"], "forward"),
        ("Relu", ["forward"], "c..d"),
        ("Relu", ["c..d"], 'a "new" one'),
        ("GlobalMaxPool", ['a "new" one'], "pool:0"),
        ("Relu", ["pool:0"], "y"),  # [B, 4, 1, 1], as fully convolutional networks have it
    ]
    file = write(tmp_path, nodes, {"w": weights(4, 3, 3, 3)})
    found = find_model(str(file))
    names = ["a.b", "a_", "forward_", "c__d", "a _new_ one", "pool:0", "y"]
    cuts = legal_cuts(found.model, SHAPE)
    assert [cut.name for cut in cuts] == names
    assert "'a _new_ one' " in cuts_table(cuts)
    check_answers(file, found, attached(found.model, names[:-2], SHAPE, 4))


def test_images_whose_channels_are_last_are_turned(tmp_path):
    nodes = [("Transpose", ["x"], "turned", {"perm": [0, 3, 1, 2]}), ("Conv", ["turned", "w"], "map")]
    nodes += [("GlobalAveragePool", ["map"], "pooled"), ("Squeeze", ["pooled"], "y")]
    file = write(tmp_path, nodes, {"w": weights(4, 3, 3, 3)}, shape=("batch", 12, 10, 3))
    found = find_model(str(file))
    assert found.input_shape == (3, 12, 10)
    x = weights(3, 3, 12, 10)
    with torch.no_grad():
        got = found.model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, answers(file, np.ascontiguousarray(x.transpose(0, 2, 3, 1))), rtol=1e-5, atol=1e-5)


def test_weights_may_lie_beside_and_their_absence_is_said(tmp_path):
    file = write(tmp_path, LINEAR, W)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert find_model(str(file)).model(torch.zeros(2, *SHAPE)).shape == (2, 5)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(DamagedData, match=r"model\.onnx holds no ONNX model that can be read: .*model\.onnx\.data"):
        find_model(str(file))


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x0a"])
def test_what_is_no_model_is_damaged(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(DamagedData, match=r"model\.onnx holds no ONNX model"):
        find_model(str(tmp_path / "model.onnx"))


SCALE = {"s": np.float32(0.1), "z": np.uint8(0)}
REFUSED = {
    "two inputs": (
        {"nodes": [("Add", ["x", "other"], "y")], "takes": ("x", "other")},
        "goes from x, other to y; .*extract",
    ),
    "two outputs": ({"nodes": [*LINEAR], "constants": W, "gives": ("y", "pooled")}, "from x to y, pooled"),
    "half precision": (
        {"nodes": POOL, "kind": TensorProto.FLOAT16, "gives": ("flat",)},
        r"takes float16 .batch, 3, 16, 16",
    ),
    "rows": (
        {"nodes": [("Relu", ["x"], "y")], "shape": ("batch", 4)},
        r"takes float32 .batch, 4.; it must take float32",
    ),
    "any size": (
        {"nodes": POOL, "shape": ("batch", 3, "h", "w"), "gives": ("flat",)},
        r"images .3, h, w. .*make_dynamic_shape_",
    ),
    "softmax": ({"nodes": [*POOL, ("Softmax", ["flat"], "y")]}, r'ends in a Softmax.*"logits\.onnx", ."x"., ."flat".'),
    "quantised": (
        {
            "nodes": [("QuantizeLinear", ["x", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "y")],
            "constants": SCALE,
        },
        "is quantised .node '/q' is a QuantizeLinear.; give the float model",
    ),
    "optimised": (
        {"nodes": [("Gelu", ["x"], "y", {"domain": "com.microsoft"})]},
        "optimiser of ONNX Runtime .node '/y' is a com.microsoft.Gelu",
    ),
    "unknown operator": (
        {"nodes": [*POOL, ("NonZero", ["flat"], "y")]},
        "node '/y' .* is a NonZero, which torch is not told; give the model itself",
    ),
    "inside in half precision": (
        {"nodes": [("Cast", ["x"], "half", {"to": TensorProto.FLOAT16}), ("Cast", ["half"], "y", {"to": 1})]},
        "computes in float16 .tensor 'half'",
    ),
    "its own batch": (
        {
            "nodes": [*POOL, ("Transpose", ["flat"], "turned", {"perm": [1, 0]}), ("Reshape", ["turned", "to"], "y")],
            "constants": {"to": np.array([1, 3])},
            "shape": (1, *SHAPE),
        },
        r"for batches of 1, which cannot be undone at node '/y' .*mixes images.; export it for any: torch.onnx.export",
    ),
    "an answer for all": (
        {"nodes": [("Shape", ["x"], "shape"), ("Cast", ["shape"], "y", {"to": 1})]},
        "y does not depend on x",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_with_what_to_do(tmp_path, case):
    options, reason = REFUSED[case]
    with pytest.raises(InvalidInput, match=reason):
        find_model(str(write(tmp_path, **options)))


def test_what_torch_does_otherwise_than_the_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(OPERATORS, "Add", torch.sub)
    with pytest.raises(InvalidInput, match="what torch makes of it differs from it by"):
        find_model(str(write(tmp_path, [*POOL, ("Add", ["flat", "n"], "y")], {"n": np.float32([1, 2, 3])})))


def test_weights_and_images_of_another_kind_are_refused(tmp_path):
    file = write(tmp_path, LINEAR, W)
    with pytest.raises(InvalidInput, match="has its own"):
        find_model(str(file), tmp_path / "mine.pt")
    with pytest.raises(InvalidInput, match=r"takes images of shape \(3, 16, 16\), these are \(3, 8, 8\)"):
        find_model(str(file)).model(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidInput, match="there is no file"):
        find_model(str(tmp_path / "other.onnx"))
