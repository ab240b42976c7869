"""What a model must be before it is run: plain layers with fp32 weights in this machine's memory.

Each kind that cannot be taken apart is refused by name, with what to call instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from branchynet.errors import InvalidInput

__all__ = ["check_model"]

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
# Types of numbers that neither files nor ONNX Runtime hold as they are here; others may well be used for a table.
_TABLES = (torch.float32, torch.float64, torch.float16)


def check_model(model: object, what: str = "the model") -> None:
    """Raise `InvalidInput`, with what to call, unless *model* is a `torch.nn.Module` that can be run and taken apart.

    *what* it is called in the error.
    """
    if isinstance(model, torch.export.ExportedProgram):
        raise InvalidInput(
            f"{what} is a torch.export.ExportedProgram; give torch.export.unflatten(program), or the file that "
            "torch.export.save writes"
        )
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise InvalidInput(
            f"{what} is TorchScript ({type(model).__name__}), whose layers cannot be told apart; give the nn.Module "
            "that it was made of, with its weights: module.load_state_dict(scripted.state_dict())"
        )
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InvalidInput(f"{what} is {kind}; it must be a torch.nn.Module")
    for name, module in model.named_modules():
        _check_module(module, f"submodule {name!r} of {what}" if name else what)
    for name, parameter in model.named_parameters():
        _check_tensor(parameter, f"parameter {name!r} of {what}", (torch.float32,))
    for name, buffer in model.named_buffers():
        _check_tensor(buffer, f"buffer {name!r} of {what}", _TABLES)


def _check_module(module: nn.Module, what: str) -> None:
    kind = type(module)
    if kind.__name__ == "OptimizedModule":
        raise InvalidInput(f"{what} is what torch.compile gave; give the module itself: compiled._orig_mod")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise InvalidInput(f"{what} was compiled by its compile(); give it as it was before that")
    if kind.__name__ in _WRAPPERS:
        raise InvalidInput(f"{what} is a {kind.__name__} around the model; give what is inside: wrapper.module")
    if kind.__module__.startswith(_QUANTISED):
        raise InvalidInput(
            f"{what} is quantised ({kind.__module__}.{kind.__name__}); give the float model from before convert() or "
            "quantize_dynamic()"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise InvalidInput(f"{what} is TorchScript ({kind.__name__}); build the model with the nn.Module in its place")


def _check_tensor(tensor: Tensor, what: str, floats: tuple[torch.dtype, ...]) -> None:
    if is_lazy(tensor):
        raise InvalidInput(
            f"{what} has no values yet; run the model once: model(torch.zeros(1, channels, height, width))"
        )
    if tensor.device.type == "meta":
        raise InvalidInput(
            f"{what} has no values (device meta); call model.to_empty(device='cpu') and load its weights "
            "(load_state_dict)"
        )
    if tensor.device.type != "cpu":
        raise InvalidInput(f"{what} is on device {tensor.device}; call model.cpu()")
    kind = type(tensor.data)
    if kind is not Tensor or tensor.layout is not torch.strided or tensor.is_quantized:
        kept = f"a {kind.__name__} of layout {tensor.layout} and {tensor.dtype}"
        raise InvalidInput(
            f"{what} is {kept}; it must be a plain dense tensor: give the model as it was trained, in fp32"
        )
    if tensor.is_complex():
        raise InvalidInput(f"{what} is {tensor.dtype}; keep real and imaginary parts: torch.view_as_real(tensor)")
    if tensor.is_floating_point() and tensor.dtype not in floats:
        raise InvalidInput(f"{what} is {tensor.dtype}, nodes compute in torch.float32; call model.float()")
