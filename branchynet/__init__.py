"""Early-exit networks split between an edge and a cloud: the public names.

They load when first used: `import branchynet.decisions.exits` brings in neither torch nor gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from branchynet.client import AsyncClient as AsyncClient
    from branchynet.client import Client as Client
    from branchynet.decisions.exits import Criterion as Criterion
    from branchynet.decisions.exits import ExitRule as ExitRule
    from branchynet.errors import BranchyNetError as BranchyNetError
    from branchynet.manifest import Manifest as Manifest
    from branchynet.models import Architecture as Architecture
    from branchynet.models.attach import attach as attach
    from branchynet.models.attach import legal_cuts as legal_cuts
    from branchynet.network import BranchyNet as BranchyNet
    from branchynet.network import Normalisation as Normalisation
    from branchynet.network import Stage as Stage
    from branchynet.prediction import Place as Place
    from branchynet.prediction import Policy as Policy
    from branchynet.prediction import Prediction as Prediction

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "models",
    "AsyncClient": "client",
    "BranchyNet": "network",
    "BranchyNetError": "errors",
    "Client": "client",
    "Criterion": "decisions.exits",
    "ExitRule": "decisions.exits",
    "Manifest": "manifest",
    "Normalisation": "network",
    "Place": "prediction",
    "Policy": "prediction",
    "Prediction": "prediction",
    "Stage": "network",
    "attach": "models.attach",
    "legal_cuts": "models.attach",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 (the keys are literal strings)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'branchynet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"branchynet.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
