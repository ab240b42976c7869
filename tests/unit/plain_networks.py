"""A network of one exit, for the tests of what early exit is measured beside."""

import dataclasses

from network_examples import TINY
from torch import nn

from branchynet import models
from branchynet.models import Architecture
from branchynet.network import Stage


def register_plain(monkeypatch):
    """Make `Architecture("plain")` one stage and one exit for 28×28 images; a recipe to train it with."""

    def stages(variant, classes):
        trunk = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(49, 12), nn.ReLU())
        return [Stage(trunk, nn.Linear(12, classes))]

    monkeypatch.setitem(models._FAMILIES, "plain", models._Family(stages, (1, 28, 28)))
    return dataclasses.replace(TINY, architecture=Architecture("plain", classes=4), exit_weights=(1.0,))
