"""Early-exit networks split between an edge and a cloud: the public names.

They load when first used: `import branchynet.exits.rules` brings in neither torch nor gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact as Artifact
    from branchynet.client.client import AsyncClient as AsyncClient
    from branchynet.client.client import Client as Client
    from branchynet.data.preprocessing import Preprocessing as Preprocessing
    from branchynet.errors import BranchyNetError as BranchyNetError
    from branchynet.exits.rules import Criterion as Criterion
    from branchynet.exits.rules import ExitRule as ExitRule
    from branchynet.models.architectures import Architecture as Architecture
    from branchynet.network.normalisation import Normalisation as Normalisation
    from branchynet.network.stages import BranchyNet as BranchyNet
    from branchynet.network.stages import Stage as Stage
    from branchynet.serving.prediction import Place as Place
    from branchynet.serving.prediction import Policy as Policy
    from branchynet.serving.prediction import Prediction as Prediction
    from branchynet.surgery.attach import attach as attach
    from branchynet.surgery.attach import legal_cuts as legal_cuts

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "models.architectures",
    "AsyncClient": "client.client",
    "BranchyNet": "network.stages",
    "BranchyNetError": "errors",
    "Client": "client.client",
    "Criterion": "exits.rules",
    "ExitRule": "exits.rules",
    "Artifact": "artifact.artifact",
    "Normalisation": "network.normalisation",
    "Place": "serving.prediction",
    "Policy": "serving.prediction",
    "Prediction": "serving.prediction",
    "Preprocessing": "data.preprocessing",
    "Stage": "network.stages",
    "attach": "surgery.attach",
    "legal_cuts": "surgery.attach",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 (the keys are literal strings)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'branchynet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"branchynet.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
