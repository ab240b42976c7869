"""Where a model comes from: a function in a file, an exported file, timm or torchvision by name; its own weights.

    find_model("model.py:build")
    find_model("model.pt2")                             as torch.export.save wrote it
    find_model("model.onnx")                            the whole model, as any exporter wrote it
    find_model("timm:efficientnet_lite0")               pretrained, as timm has it
    find_model("torchvision:resnet18", Path("mine.pt"))  that architecture with these weights

timm and torchvision also know how their models were trained: shape, normalisation, and what part of a picture they saw.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import BranchyNetError, DamagedData, InvalidInput, SettingsError, Unavailable
from branchynet.network.foreign_code import in_words
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.admission import check_model
from branchynet.surgery.exported_program import load_program
from branchynet.surgery.onnx_file.loading import load_graph

__all__ = ["FoundModel", "Training", "find_model"]


@dataclass(frozen=True, slots=True)
class Training:
    """How a model was trained, as far as its source says: *input_shape* [C, H, W], and what stood before the model."""

    input_shape: tuple[int, int, int]
    normalisation: Normalisation
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A *model* in evaluation mode; *trained*: how, None where its source does not say.

    *input_shape*: [C, H, W] of an image, None where any will do that it was not trained with.
    """

    model: nn.Module
    trained: Training | None = None
    input_shape: tuple[int, int, int] | None = None


def find_model(where: str, weights: Path | None = None) -> FoundModel:
    """The model at *where*: `FILE.py:CALLABLE`, `FILE.pt2`, `FILE.onnx`, `timm:NAME` or `torchvision:NAME`.

    *weights*: a state dict's file.

    Without them, timm's and torchvision's models come with the weights that these packages download. Raises
    `InvalidInput` for what names no model, weights that do not fit, and whatever the file's own code raises;
    `SettingsError` for a package that is missing or does not fit torch; `Unavailable` if there is nothing to download
    from; `DamagedData` for a file that holds no weights.
    """
    kind, separator, name = where.partition(":")
    sources: dict[str, Callable[[str, bool], FoundModel]] = {"timm": _of_timm, "torchvision": _of_torchvision}
    if separator and kind in sources:
        found = sources[kind](name, weights is None)
    elif where.endswith((".pt2", ".onnx")):
        if weights is not None and where.endswith(".onnx"):
            raise InvalidInput(
                f"--weights is {weights}; {where} has its own, under names that no state dict has: export it with these"
            )
        model, shape = (load_program if where.endswith(".pt2") else load_graph)(Path(where))
        found = FoundModel(model, input_shape=shape)
    else:
        found = FoundModel(_of_file(where))
    check_model(found.model, f"what {where} makes")
    if weights is not None:
        _load(found.model, weights)
    found.model.eval()
    return found


def _of_file(where: str) -> nn.Module:
    file, separator, attribute = where.rpartition(":")
    if not separator or not file.endswith(".py"):
        raise InvalidInput(
            f"{where!r} is not FILE.py:CALLABLE, as in model.py:build, FILE.pt2, FILE.onnx, timm:NAME or "
            "torchvision:NAME"
        )
    if not Path(file).is_file():
        raise InvalidInput(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).resolve().parent))  # the file may import its neighbours
    with _code_of(file):
        spec.loader.exec_module(module)
    make = getattr(module, attribute, None)
    if not callable(make):
        raise InvalidInput(f"{file} has no callable {attribute!r}")
    with _code_of(file):
        made: nn.Module = make()
    return made


def _of_timm(name: str, pretrained: bool) -> FoundModel:
    with _code_of("timm"):
        import timm
        from timm.data.config import resolve_model_data_config
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:5])
        raise InvalidInput(f"timm has no model {name!r}" + (f"; near names are {near}" if near else ""))
    with _downloading(f"timm:{name}"):
        model: nn.Module = timm.create_model(name, pretrained=pretrained)
    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    cropped = config["crop_mode"] == "center"
    preprocessing = Preprocessing(
        Resize.CROP if cropped else Resize.STRETCH,
        Interpolation(config["interpolation"]),
        crop_share=float(config["crop_pct"]) if cropped else 1.0,
    )
    normalisation = Normalisation(tuple(config["mean"]), tuple(config["std"]))
    return FoundModel(model, Training(tuple(config["input_size"]), normalisation, preprocessing))


def _of_torchvision(name: str, pretrained: bool) -> FoundModel:
    with _code_of("torchvision"):
        from torchvision import models
    if name not in models.list_models():
        raise InvalidInput(f"torchvision has no model {name!r}")
    kept = models.get_model_weights(name).DEFAULT
    # Its two models with helping outputs give these only in training, if they are told to; see their documentation.
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") and not pretrained else {}
    with _downloading(f"torchvision:{name}"):
        model: nn.Module = models.get_model(name, weights=kept if pretrained else None, **options)
    presets = kept.transforms()
    side = presets.crop_size[0]
    preprocessing = Preprocessing(
        Resize.CROP, Interpolation(presets.interpolation.value), crop_share=side / presets.resize_size[0]
    )
    return FoundModel(
        model, Training((3, side, side), Normalisation(tuple(presets.mean), tuple(presets.std)), preprocessing)
    )


def _load(model: nn.Module, weights: Path) -> None:
    """Load the state dict in *weights* into *model*, all of it."""
    state = _state_dict(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InvalidInput(f"the weights in {weights} do not fit the model: {' '.join(lines[1:3])}") from error


def _state_dict(weights: Path) -> Mapping[str, Tensor]:
    if not weights.is_file():
        raise InvalidInput(f"there is no file {weights}")
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        held = torch.load(weights, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError, ValueError, KeyError) as error:
        raise DamagedData(
            f"{weights} holds no weights that can be loaded without running code: {in_words(error)}"
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "safetensors":
            raise
        raise DamagedData(f"{weights} is no safetensors file: {in_words(error)}") from error
    # What training programs save beside it lies around the state dict.
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise DamagedData(f"{weights} holds a {type(held).__name__}, it must hold a state dict")
    return held


@contextmanager
def _downloading(what: str) -> Iterator[None]:
    """Whatever a package raises because it reaches nobody becomes `Unavailable`."""
    try:
        with _code_of(what):
            yield
    except InvalidInput as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise Unavailable(f"the weights of {what} cannot be downloaded: {in_words(cause)}") from error
            cause = cause.__cause__ or cause.__context__
        raise


@contextmanager
def _code_of(file: str) -> Iterator[None]:
    """Whatever the code of *file* raises becomes an error of ours that says what, and in which line."""
    try:
        yield
    except (BranchyNetError, MemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        # That is what is being imported when another build of it fails.
        if any(Path(frame.filename).parts[-2:] == ("torchvision", "__init__.py") for frame in frames):
            raise _another_torchvision(error) from error
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(file).resolve()]
        place = f"{file}, line {lines[-1]}" if lines else file
        if isinstance(error, ModuleNotFoundError) and error.name:
            raise SettingsError(f"{place} needs {error.name}, which is not installed") from error
        raise InvalidInput(f"{place}: {in_words(error)}") from error


def _another_torchvision(error: Exception) -> SettingsError:
    """The error for a torchvision that was made for another torch than there is; many models import it."""
    build = torch.__version__.partition("+")[2]  # of PyPI's own torch there is none
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    try:
        name = f"torchvision {version('torchvision')}"
    except PackageNotFoundError:  # a folder of that name
        name = "torchvision"
    return SettingsError(
        f"{name} does not run beside torch "
        f"{torch.__version__} ({in_words(error)}); install the one made for it: pip uninstall --yes torchvision; "
        f"pip install torch=={torch.__version__} torchvision{index}"
    )
