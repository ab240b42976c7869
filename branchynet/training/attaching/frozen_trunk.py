"""What the heads of a trunk that stays as it is look at: computed once, kept, and read in every epoch.

A head that begins by pooling is given what it has pooled, a few kilobytes an image, so ten epochs of heads take seconds
where running the trunk for each of them takes many minutes. What does not fit into memory lies in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from branchynet.data.datasets import Dataset
from branchynet.models.heads import ChannelsFirst, MeanOfTokens
from branchynet.network.runner import batch_slices
from branchynet.network.stages import BranchyNet
from branchynet.training.scratch_arrays import scratch_arrays

__all__ = ["Heads", "Kept"]

Floats = NDArray[np.float32]

BATCH = 500
# They learn nothing and draw nothing, so what they make of a map is as good as the map.
_STATELESS = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
    ChannelsFirst,
    MeanOfTokens,
)


class Kept:
    """What the heads see of N images: *inputs*, float32 [N, …] for each head that learns; *labels* int64 [N].

    *final*: logits of the frozen final exit, float32 [N, C]; None where it learns as well.
    """

    def __init__(self, inputs: Sequence[Floats], final: Floats | None, labels: NDArray[np.int64]) -> None:
        self.inputs, self.final, self.labels = inputs, final, labels

    def __len__(self) -> int:
        return len(self.labels)


class Heads:
    """The heads of the whole *network* over its frozen trunk; *final*: the final exit's head learns as well."""

    def __init__(self, network: BranchyNet, *, final: bool) -> None:
        self._network, self._final = network, final
        last = network.total_stages - 1
        parts: list[tuple[nn.Module, nn.Module]] = []
        self._learns: list[int] = []
        for index in range(network.total_stages):
            head = network.stage(index).head
            if head is not None and (final or index < last):
                parts.append(_split(head))
                self._learns.append(index)
        self._begins = [begin for begin, _ in parts]
        self.learning = [rest for _, rest in parts]

    @torch.inference_mode()
    def look_at(self, dataset: Dataset, on_image: Callable[[int], None] = lambda _: None) -> Kept:
        """Run the trunk on *dataset* once; *on_image* receives how many images are done."""
        self._network.eval()
        inputs: list[Floats] = []
        final: list[Floats] = []
        for batch in batch_slices(dataset.images):
            seen, logits = self._run(dataset.images[batch])
            if not inputs:
                inputs = scratch_arrays([(len(dataset), *one.shape[1:]) for one in seen], np.float32)
            for kept, one in zip(inputs, seen, strict=True):
                kept[batch] = one.numpy()
            if logits is not None:
                final.append(logits.numpy())
            on_image(batch.stop)
        return Kept(inputs, np.concatenate(final) if final else None, dataset.labels)

    def logits(self, kept: Kept, chosen: NDArray[np.int64] | slice) -> list[Tensor]:
        """Logits [B, C] of every exit on those of *kept* that are *chosen*, with gradients for what learns."""
        scored = [
            head(torch.from_numpy(np.ascontiguousarray(part[chosen])))
            for head, part in zip(self.learning, kept.inputs, strict=True)
        ]
        return scored if kept.final is None else [*scored, torch.from_numpy(kept.final[chosen])]

    @torch.inference_mode()
    def accuracies(self, kept: Kept) -> tuple[float, ...]:
        """Accuracy 0..1 of every exit on *kept*, each exit answering everything."""
        self._network.eval()
        labels = torch.from_numpy(kept.labels)
        right: list[int] = []
        for start in range(0, len(kept), BATCH):
            batch = slice(start, start + BATCH)
            scored = self.logits(kept, batch)
            right = right or [0] * len(scored)
            right = [
                count + int((one.argmax(1) == labels[batch]).sum()) for count, one in zip(right, scored, strict=True)
            ]
        return tuple(count / len(kept) for count in right)

    def _run(self, images: NDArray[np.uint8]) -> tuple[list[Tensor], Tensor | None]:
        x = self._network.normalisation(torch.from_numpy(images))
        seen: list[Tensor] = []
        for index in range(self._network.total_stages):
            stage = self._network.stage(index)
            x = stage.trunk(x)
            if index in self._learns:
                seen.append(self._begins[len(seen)](x))
        head = self._network.stage(self._network.total_stages - 1).head
        return seen, None if self._final or head is None else head(x)


def _split(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """What *head* does before anything of it learns, and the rest."""
    if not isinstance(head, nn.Sequential):
        return nn.Identity(), head
    layers = list(head)
    count = next((index for index, layer in enumerate(layers) if not isinstance(layer, _STATELESS)), len(layers))
    begin, rest = nn.Sequential(*layers[:count]), layers[count:]
    if rest and isinstance(rest[0], nn.Sequential):
        inner_begin, inner_rest = _split(rest[0])
        return nn.Sequential(begin, inner_begin), nn.Sequential(inner_rest, *rest[1:])
    return begin, nn.Sequential(*rest)
