"""Where models come from: files, timm and torchvision by name, weights of their own; and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from timm_models import import_timm

from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import DamagedData, InvalidInput, Unavailable
from branchynet.network.normalisation import Normalisation
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
        ("model.py", "is not FILE.py:CALLABLE, timm:NAME or torchvision:NAME"),
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
