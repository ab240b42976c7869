"""Where models come from: files, timm and torchvision by name, weights of their own; and what is refused."""

import pickle

import pytest
import torch
from attached import attached, check_split
from other_models import import_timm
from safetensors.torch import save_file
from torch import nn

from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import DamagedData, InvalidInput, Unavailable
from branchynet.models.heads import default_head
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.attach import legal_cuts
from branchynet.surgery.model_sources import find_model

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FILE = """
import torch

def build():
    torch.manual_seed(SEED)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(12, 3))
"""


@pytest.fixture(scope="module", autouse=True)
def _timm():
    import_timm()


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.py").write_text(FILE.replace("SEED", "1"))
    return f"{tmp_path / 'model.py'}:build"


def test_a_file_says_nothing_of_the_training(file):
    found = find_model(file)
    assert found.trained is None
    assert not found.model.training


def saved(state, folder, form):
    path = folder / f"mine.{'safetensors' if form == 'safetensors' else 'pt'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"plain": state, "wrapped": {"epoch": 3, "state_dict": state}}[form], path)
    return path


@pytest.mark.parametrize("form", ["plain", "wrapped", "safetensors"])
def test_weights_of_its_own_are_loaded(file, tmp_path, form):
    state = {name: tensor + 1 for name, tensor in find_model(file).model.state_dict().items()}
    loaded = find_model(file, saved(state, tmp_path, form)).model.state_dict()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor)


class Runs:
    def __reduce__(self):
        return print, ("code in a file of weights ran",)


def broken(tmp_path, mistake):
    path = tmp_path / ("mine.safetensors" if mistake == "no safetensors" else "mine.pt")
    if mistake == "another model":
        torch.save({"2.weight": torch.zeros(4, 12)}, path)
    elif mistake == "no weights":
        torch.save([1, 2], path)
    elif mistake == "code":
        path.write_bytes(pickle.dumps(Runs(), protocol=2))
    elif mistake != "missing":
        path.write_bytes(b"not weights")
    return path


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        ("another model", InvalidInput, 'do not fit the model: .*"2.bias"'),
        ("no weights", DamagedData, "holds a list, it must hold a state dict"),
        ("code", DamagedData, "without running code"),
        ("noise", DamagedData, "holds no weights"),
        ("no safetensors", DamagedData, "is no safetensors file"),
        ("missing", InvalidInput, "there is no file"),
    ],
)
def test_what_holds_no_weights_for_it_is_refused(file, tmp_path, capfd, mistake, error, words):
    with pytest.raises(error, match=words):
        find_model(file, broken(tmp_path, mistake))
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("model.py", "is not FILE.py:CALLABLE, as in .*, FILE.pt2, FILE.onnx, timm:NAME or torchvision"),
        ("keras:resnet", "is not FILE.py:CALLABLE"),
        ("timm:resnet18x", "timm has no model 'resnet18x'; near names are .*resnet18"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'"),
    ],
)
def test_what_names_no_model_is_refused(where, words):
    with pytest.raises(InvalidInput, match=words):
        find_model(where)


def weights_of(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def test_timm_says_how_its_model_was_trained(tmp_path):
    weights = weights_of(import_timm().create_model("resnet10t"), tmp_path)
    trained = find_model("timm:resnet10t", weights).trained
    assert (trained.input_shape, trained.normalisation) == ((3, 176, 176), IMAGENET)
    assert trained.preprocessing == Preprocessing(Resize.CROP, Interpolation.BICUBIC, crop_share=0.875)


@pytest.mark.parametrize(("name", "side", "share"), [("mobilenet_v3_small", 224, 0.875), ("googlenet", 224, 0.875)])
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_torchvision_says_so_too_and_gives_one_tensor(tmp_path, name, side, share):
    from torchvision import models

    options = {"aux_logits": False} if name == "googlenet" else {}
    weights = weights_of(models.get_model(name, weights=None, **options), tmp_path)
    found = find_model(f"torchvision:{name}", weights)
    assert (found.trained.input_shape, found.trained.normalisation) == ((3, side, side), IMAGENET)
    assert found.trained.preprocessing == Preprocessing(Resize.CROP, Interpolation.BILINEAR, crop_share=share)
    assert found.model(torch.zeros(1, 3, side, side)).shape == (1, 1000)


def test_weights_that_cannot_be_downloaded_are_said_to_be_so(tmp_path, monkeypatch):
    """timm's come the same way, after a minute of tries."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be downloaded"):
        find_model("torchvision:mobilenet_v3_small")


def exported(tmp_path, model, *images, dynamic=True, name="model.pt2"):
    shapes = tuple({0: torch.export.Dim("batch")} for _ in images) if dynamic else None
    torch.export.save(torch.export.export(model.eval(), images, dynamic_shapes=shapes), tmp_path / name)
    return str(tmp_path / name)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, 3, stride=2), nn.ReLU())
        self.last = nn.Linear(5 * 5 * 4, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x)).flatten(1))


IMAGES = torch.rand(4, 3, 13, 12)


def test_an_exported_program_has_the_places_and_the_answers_of_its_model(tmp_path):
    model = Small().eval()
    found = find_model(exported(tmp_path, model, IMAGES))
    assert (found.trained, found.input_shape) == (None, (3, 13, 12))
    assert {"first", "second"} <= {cut.name for cut in legal_cuts(found.model, found.input_shape)}
    network = attached(found.model, ["first"], found.input_shape, 3, head=default_head)
    check_split(model, network)


class TakesTwo(Small):
    def forward(self, x, y):
        return super().forward(x + y)


class GivesTwo(Small):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("model", "images", "dynamic", "reason"),
    [
        (Small, [IMAGES], False, 'batches of 4 images; export it for any.*Dim."batch"'),
        (TakesTwo, [IMAGES, IMAGES], True, "from x, y to linear; it must go from one tensor to one"),
        (GivesTwo, [IMAGES], True, "to linear, x; it must go from one"),
        (nn.Flatten, [torch.zeros(2, 3)], True, r"takes float32 .*; it must take float32 .batch, C, H, W"),
        (nn.Flatten, [IMAGES.double()], True, "takes float64"),
    ],
)
def test_a_program_that_is_none_of_one_image_is_refused(tmp_path, model, images, dynamic, reason):
    file = exported(tmp_path, model(), *images, dynamic=dynamic)
    with pytest.raises(InvalidInput, match=reason):
        find_model(file)


def test_a_file_that_holds_no_program_is_damaged(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"nothing of it")
    with pytest.raises(DamagedData, match=r"model\.pt2 holds no program"):
        find_model(str(tmp_path / "model.pt2"))
    with pytest.raises(InvalidInput, match="there is no file"):
        find_model(str(tmp_path / "other.pt2"))
