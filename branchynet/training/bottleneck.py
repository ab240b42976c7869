"""Train the bottleneck of one cut, with the network around it frozen: the uncut network stays itself, bit for bit.

    image ─► stages before the cut ─► encoder ─► levels ─► decoder ─► stages behind it ─► as the uncut network answers?
              (run once, kept)                     └ bits by the expected frequencies

What is learnt is to answer as the uncut network does at every exit behind the cut, in few bits: the loss is the
divergence of the exits' probabilities, and what the levels would take by frequencies that are learnt beside them.
Rounding is passed straight through. The samples are those that the artifact's rule offloads, and a share of the others.

Every epoch draws its order from a seed of its own and ends with a checkpoint; a run that was stopped goes on to the
same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from branchynet.codecs.ans import LevelTables
from branchynet.codecs.bottleneck import BottleneckCodec, BottleneckShape
from branchynet.codecs.bottleneck_net import Bottleneck, TransformBottleneck, fresh_bottleneck
from branchynet.data.datasets import Dataset
from branchynet.errors import DamagedData, InvalidInput
from branchynet.evaluation.codec_study import logits_from
from branchynet.exits.rules import ExitRule, History
from branchynet.network.counting import count_macs_of
from branchynet.network.runner import Runner, batch_slices
from branchynet.training import checkpoints
from branchynet.training.augmentation import augmented
from branchynet.training.bottleneck_recipes import BottleneckRecipe
from branchynet.training.muon import Muon
from branchynet.training.scratch_arrays import scratch_arrays

__all__ = ["Epoch", "FrozenNetwork", "macs_of", "train_bottleneck"]

BATCH = 250
# Adam's shares of the learning rate, for weights and for the frequencies: these can follow the encoder only if they are
# quicker. With Muon the learning rate is that of the convolutions, and Adam's weights are biases.
_HASTE = {"adam": (1.0, 10.0), "muon": (0.25, 2.5)}
# A transform that begins as the best linear one needs to move little.
_TRANSFORM_HASTE = {"adam": (0.3, 10.0), "muon": (0.05, 1.0)}
# How many maps a transform is begun at: more than it has directions, as few as memory allows.
_BEGIN_SAMPLES, _BEGIN_VALUES = 16_000, 2**26
# Fewer offloads than this show little of how often a level comes at a place.
FEWEST_TABLE_SAMPLES = 500
CHECKPOINT = "bottleneck.pt"


@dataclass(frozen=True, slots=True)
class FrozenNetwork:
    """What a bottleneck is trained for: the whole *network* on any engine, and the *rule* by which samples reach it.

    *tail*: what follows the cut once more, such that gradients pass through: see `Artifact.trainable_tail`.
    """

    network: Runner
    tail: nn.Module
    rule: ExitRule


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch that is over: the mean *divergence* in nats from the uncut network, and the mean *bits* of a sample."""

    epoch: int
    epochs: int
    divergence: float
    bits: float


@dataclass(frozen=True, eq=False)
class _Samples:
    """Maps at the cut, float16 [M, …], and the uncut network's logits at the exits behind it, float32 [E, M, C]."""

    maps: NDArray[np.float16]
    logits: NDArray[np.float32]


def train_bottleneck(
    recipe: BottleneckRecipe,
    frozen: FrozenNetwork,
    images: tuple[Dataset, Dataset],
    folder: Path,
    on_step: Callable[[int, int, str], None] = lambda *_: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    start: BottleneckCodec | None = None,
) -> tuple[Bottleneck, LevelTables]:
    """A bottleneck for the *frozen* network, or what the checkpoint in *folder* becomes.

    It learns from the first of *images*; the frequencies of its levels are those on the second, held out. Weights are
    fresh, or those of *start*, which must have the recipe's form. *on_step* receives how many of how many images or
    samples are done, and what is being done. Raises `InvalidInput` for a cut without an exit before it or with no map
    at it, and for a checkpoint of another recipe.
    """
    network = frozen.network
    if not 1 <= recipe.cut < network.total_stages or not network.exits_before(recipe.cut):
        raise InvalidInput(f"cut is {recipe.cut}; a bottleneck lies between an exit and the stages that follow it")
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = images
    torch.manual_seed(recipe.seed)
    samples = _samples(recipe, frozen, training, on_step)
    positive = bool(samples.maps.min() >= 0)
    trained = _Trained(fresh_bottleneck(recipe.shape_for(samples.maps.shape[1:], positive=positive)))
    if start is not None:
        trained.take(start)
    elif isinstance(trained.bottleneck, TransformBottleneck):
        begin = min(_BEGIN_SAMPLES, _BEGIN_VALUES // math.prod(samples.maps.shape[1:]))
        trained.begin_at(torch.from_numpy(samples.maps[:begin]).float(), recipe.step)
    optimisers = _optimisers(trained, recipe)
    for parameter in frozen.tail.parameters():
        parameter.requires_grad_(False)
    described = {**asdict(recipe), "start": start.digest if start is not None else ""}
    for epoch in range(_resume(folder, described, trained, optimisers), recipe.epochs):
        started_s = time.perf_counter()
        done = _run_epoch(epoch, recipe, trained, optimisers, frozen.tail, samples, on_step)
        _write(folder, described, epoch + 1, trained, optimisers)
        seconds = round(time.perf_counter() - started_s, 2)
        checkpoints.append_log(folder, {"phase": "bottleneck", **asdict(done), "seconds": seconds})
        on_epoch(done)
    bottleneck = trained.bottleneck.half().float().eval()  # as it will be kept, for the levels' frequencies
    return bottleneck, _tables(recipe, bottleneck, frozen, held_out)


def _optimisers(trained: _Trained, recipe: BottleneckRecipe) -> list[torch.optim.Optimizer]:
    """Adam for everything, or Muon for convolutions and Adam for the rest; each group has its *haste*."""
    weights, optimisers = list(trained.bottleneck.parameters()), list[torch.optim.Optimizer]()
    if recipe.optimiser == "muon":
        named = trained.bottleneck.named_parameters()
        convolutions = [tensor for name, tensor in named if name.endswith(".weight") and tensor.ndim == 4]
        muon = Muon(convolutions, recipe.learning_rate, normalised=False)
        muon.param_groups[0]["haste"] = 1.0
        optimisers.append(muon)
        taken = set(map(id, convolutions))
        weights = [weight for weight in weights if id(weight) not in taken]
    haste = (_TRANSFORM_HASTE if recipe.form == "transform" else _HASTE)[recipe.optimiser]
    groups = zip((weights, [trained.frequencies]), haste, strict=True)
    optimisers.append(torch.optim.Adam([{"params": part, "haste": haste} for part, haste in groups]))
    return optimisers


def macs_of(shape: BottleneckShape) -> tuple[int, int]:
    """MACs of encoder and decoder for one map."""
    with torch.device("meta"):
        bottleneck = fresh_bottleneck(shape)
        maps, codes = torch.zeros(1, *shape.map_shape), torch.zeros(1, *shape.code_shape)
        return count_macs_of(lambda: bottleneck.codes(maps)), count_macs_of(lambda: bottleneck.decoded(codes))


class _Trained(nn.Module):
    """A bottleneck, and the logarithms of how often each level is expected at each place."""

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.frequencies = nn.Parameter(torch.zeros(bottleneck.shape.places, bottleneck.shape.levels))

    def take(self, start: BottleneckCodec) -> None:
        """Take the weights of *start*; `InvalidInput` if it has another form."""
        if start.shape != self.bottleneck.shape or not isinstance(start.halves, Bottleneck):
            raise InvalidInput(f"the artifact's bottleneck is {start.shape}, the recipe's {self.bottleneck.shape}")
        self.bottleneck.load_state_dict(start.halves.state_dict())
        with torch.no_grad():
            self.frequencies.copy_(torch.from_numpy(start.tables.frequencies).float().log())

    @torch.no_grad()
    def begin_at(self, maps: Tensor, step: float) -> None:
        """Begin as the best linear transform of *maps* [B, …], see there; with the frequencies that it gives them."""
        assert isinstance(self.bottleneck, TransformBottleneck)
        self.bottleneck.begin_at(maps, step)
        parts = [maps[first : first + BATCH] for first in range(0, len(maps), BATCH)]
        levels = torch.cat([self.bottleneck.codes(part).round() for part in parts])
        tables = LevelTables.fitted(levels.to(torch.uint8).numpy(), self.bottleneck.shape.levels)
        self.frequencies.copy_(torch.from_numpy(tables.frequencies).float().log())

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What comes out of the cut for *maps* [B, …], and the bits that each sample takes there, float32 [B]."""
        codes = self.bottleneck.codes(maps)
        levels = codes + (codes.round() - codes).detach()
        return self.bottleneck.decoded(levels), self._bits(codes.flatten(1))

    def _bits(self, codes: Tensor) -> Tensor:
        """Of the levels next to *codes* [B, N], each weighted by how near it is: this has a slope, a level has none."""
        bits = -F.log_softmax(self.frequencies, dim=1) / math.log(2)
        below = codes.detach().floor().clamp(0, bits.shape[1] - 2)
        part = codes - below
        place, low = torch.arange(len(bits)), below.long()
        return ((1 - part) * bits[place, low] + part * bits[place, low + 1]).sum(1)


def _run_epoch(
    epoch: int,
    recipe: BottleneckRecipe,
    trained: _Trained,
    optimisers: Sequence[torch.optim.Optimizer],
    tail: nn.Module,
    samples: _Samples,
    on_step: Callable[[int, int, str], None],
) -> Epoch:
    generator = Generator().manual_seed(recipe.seed * 10_007 + epoch)
    order = torch.randperm(len(samples.maps), generator=generator).split(recipe.batch_size)  # type: ignore[no-untyped-call]
    sums = torch.zeros(2)
    for step, chosen in enumerate(order):
        done = (epoch + step / len(order)) / recipe.epochs
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = recipe.learning_rate * group["haste"] * _one_cycle(done)
        maps = torch.from_numpy(samples.maps[chosen.numpy()]).float()
        decoded, bits = trained(maps)
        divergence = _divergence(tail(decoded), samples.logits[:, chosen.numpy()])
        lost = F.mse_loss(decoded, maps) / maps.var()
        loss = divergence + recipe.fidelity * lost + recipe.rate * bits.mean() / 1000
        if not math.isfinite(value := float(loss.detach())):
            raise DamagedData(f"the loss is {value} in epoch {epoch}; lower learning_rate ({recipe.learning_rate})")
        trained.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), max_norm=5.0)
        for optimiser in optimisers:
            optimiser.step()
        sums += torch.stack([divergence.detach(), bits.detach().mean()])
        on_step(
            epoch * len(order) + step + 1, recipe.epochs * len(order), f"divergence {float(sums[0]) / (step + 1):.4f}"
        )
    return Epoch(epoch, recipe.epochs, *(round(float(value), 5) for value in sums / len(order)))


def _divergence(logits: list[Tensor], uncut: NDArray[np.float32]) -> Tensor:
    """Mean over exits and samples of KL(uncut ‖ through the bottleneck), in nats."""
    parts = [
        F.kl_div(
            F.log_softmax(scored, dim=1),
            F.log_softmax(torch.from_numpy(wanted), dim=1),
            log_target=True,
            reduction="batchmean",
        )
        for scored, wanted in zip(logits, uncut, strict=True)
    ]
    return torch.stack(parts).mean()


def _one_cycle(done: float) -> float:
    """Share of the learning rate after *done* (0..1) of the training: up for a fifth of it, then down to nothing."""
    return done / 0.2 if done < 0.2 else 0.5 * (1 + math.cos(math.pi * (done - 0.2) / 0.8))


def _samples(
    recipe: BottleneckRecipe,
    frozen: FrozenNetwork,
    training: Dataset,
    on_step: Callable[[int, int, str], None],
) -> _Samples:
    generator, choice = Generator().manual_seed(recipe.seed), np.random.default_rng(recipe.seed)
    total, count = recipe.passes * len(training), 0
    maps: list[NDArray[np.float16]] = []
    logits: list[NDArray[np.float32]] = []
    for number in range(recipe.passes):
        for batch in batch_slices(training.images):
            images = augmented(torch.from_numpy(training.images[batch]), recipe.augmentation, generator)
            features, offloads = _maps(frozen, images.numpy(), recipe.cut)
            # Easy samples never reach the cut; all of them would take the bits that the hard ones need.
            kept = features[offloads | (choice.random(len(features)) < recipe.easy)]
            maps = maps or scratch_arrays([(total, *kept.shape[1:])], np.float16)
            maps[0][count : count + len(kept)] = kept
            count += len(kept)
            logits.append(logits_from(frozen.network, kept, recipe.cut))
            on_step(number * len(training) + batch.stop, total, "maps at the cut")
    return _Samples(maps[0][:count], np.concatenate(logits, axis=1))


def _maps(frozen: FrozenNetwork, images: NDArray[np.uint8], cut: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The maps of *images* at *cut*, and which of them the rule sends there."""
    network, rule = frozen.network, frozen.rule
    x: NDArray[Any] = images
    history: History | None = None
    stays = np.ones(len(images), np.bool_)
    for index in range(cut):
        x, scores = network.run(index, x)
        if scores is not None and (number := network.exit_of_stage[index]) is not None:
            history = rule.remember(scores, history)
            stays &= ~rule.leaves(number, scores, history)
    return x, stays


def _tables(recipe: BottleneckRecipe, bottleneck: Bottleneck, frozen: FrozenNetwork, held_out: Dataset) -> LevelTables:
    """Fitted on the *held_out* images that the rule offloads; on all of them where those are few."""
    parts = [_maps(frozen, held_out.images[batch], recipe.cut) for batch in batch_slices(held_out.images)]
    maps, offloads = (np.concatenate(part) for part in zip(*parts, strict=True))
    chosen = maps[offloads] if np.count_nonzero(offloads) >= FEWEST_TABLE_SAMPLES else maps
    levels = np.stack([bottleneck.levels(sample) for sample in chosen])
    return LevelTables.fitted(levels.reshape(-1, *bottleneck.shape.code_shape), bottleneck.shape.levels)


def _write(
    folder: Path,
    described: dict[str, Any],
    epoch: int,
    trained: _Trained,
    optimisers: Sequence[torch.optim.Optimizer],
) -> None:
    state = {"epoch": epoch, "weights": trained.state_dict(), "optimisers": [one.state_dict() for one in optimisers]}
    checkpoints.save(folder / CHECKPOINT, {"recipe": json.dumps(described), **state})


def _resume(folder: Path, ours: dict[str, Any], trained: _Trained, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Take up the checkpoint in *folder*; how many epochs it has behind it, 0 if there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    try:
        saved = torch.load(path, weights_only=True)
        theirs, states = json.loads(saved["recipe"]), saved["optimisers"]
    except (RuntimeError, EOFError, UnpicklingError, LookupError, TypeError, ValueError) as error:
        raise DamagedData(f"{path} is no checkpoint of ours ({error!r}); delete it to start again") from None
    if changed := [
        f"{key}: {theirs.get(key)!r} there, {ours[key]!r} asked" for key in ours if theirs.get(key) != ours[key]
    ]:
        raise InvalidInput(f"{path} belongs to another recipe ({'; '.join(changed)}); choose another --run folder")
    trained.load_state_dict(saved["weights"])
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict(state)
    return int(saved["epoch"])
