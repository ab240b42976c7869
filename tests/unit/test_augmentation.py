"""Augmented images are images of the same picture, drawn by the generator and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_examples import some
from torch import Generator

from branchynet.training import augmentation
from branchynet.training.augmentation import affine, crop_flip, cutout, shrink

both = pytest.mark.parametrize("change", [crop_flip, affine, cutout])


def generator(seed=0):
    return Generator().manual_seed(seed)


def images(batch, channels=1, height=16, width=16, seed=0):
    return torch.randint(0, 256, (batch, channels, height, width), generator=generator(seed), dtype=torch.uint8)


@both
@given(batch=st.integers(1, 5), channels=st.integers(1, 3), side=st.sampled_from([8, 28, 32]), seed=st.integers(0, 99))
@some
def test_type_and_shape_stay(change, batch, channels, side, seed):
    out = change(images(batch, channels, side, side, seed), generator(seed))
    assert out.dtype == torch.uint8
    assert out.shape == (batch, channels, side, side)


@both
def test_the_generator_alone_decides(change):
    batch = images(8)
    torch.manual_seed(1)
    first = change(batch, generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, change(batch, generator(5)))
    assert not torch.equal(first, change(batch, generator(6)))


@both
def test_the_given_batch_is_left_alone(change):
    batch = images(4)
    before = batch.clone()
    change(batch, generator())
    assert torch.equal(batch, before)


def every_crop(image):
    """Each legal crop of *image* [C, H, W] with zeros around, as it is and mirrored."""
    pad = image.shape[1] // 8
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    for row in range(2 * pad + 1):
        for column in range(2 * pad + 1):
            crop = padded[:, row : row + height, column : column + width]
            yield (row, column, False), crop
            yield (row, column, True), crop[:, :, ::-1]


@given(seed=st.integers(0, 2**32), channels=st.integers(1, 3), height=st.integers(16, 20), width=st.integers(14, 20))
@some
def test_crop_flip_gives_a_crop_of_the_padded_image_mirrored_or_not(seed, channels, height, width):
    batch = images(3, channels, height, width, seed)
    for before, after in zip(batch.numpy(), crop_flip(batch, generator(seed)).numpy(), strict=True):
        assert any(np.array_equal(crop, after) for _, crop in every_crop(before))


def test_crop_flip_reaches_every_shift_and_both_mirrorings_equally():
    batch = images(1).expand(4000, -1, -1, -1)
    crops = dict(every_crop(batch[0].numpy()))
    seen = dict.fromkeys(crops, 0)
    for after in crop_flip(batch, generator()).numpy():
        seen[next(name for name, crop in crops.items() if np.array_equal(crop, after))] += 1
    assert len(seen) == 50
    assert min(seen.values()) > 40
    assert max(seen.values()) < 130


def test_images_of_one_batch_are_changed_each_in_its_own_way():
    batch = images(1).expand(16, -1, -1, -1)
    for change in (crop_flip, affine):
        assert len({after.numpy().tobytes() for after in change(batch, generator())}) > 10


def drawing(values):
    """A stand-in for `torch.rand` that gives the next of *values* to every image."""
    remaining = iter(values)
    return lambda batch, generator: torch.full((batch,), next(remaining))


def moved(monkeypatch, image, angle=0.5, scale=0.5, x=0.5, y=0.5):
    """*image* under draws 0..1 for angle, scale and shifts; one half means: not at all."""
    monkeypatch.setattr(augmentation.torch, "rand", drawing([angle, scale, x, y]))
    return affine(image, generator())


def test_affine_of_no_change_is_no_change(monkeypatch):
    batch = images(2, 3)
    assert torch.equal(moved(monkeypatch, batch), batch)


def spot(row, column, side=100):
    image = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    image[0, 0, row - 1 : row + 2, column - 1 : column + 2] = 255
    return image


def centre(image):
    weights = image[0, 0].double()
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in weights.shape), indexing="ij")
    return float((rows * weights).sum() / weights.sum()), float((columns * weights).sum() / weights.sum())


def test_affine_shifts_by_eight_percent_of_the_side_at_most(monkeypatch):
    for x, y in ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0)):
        row, column = centre(moved(monkeypatch, spot(50, 50), x=x, y=y))
        assert abs(row - 50) == pytest.approx(8 * (y != 0.5), abs=0.1)
        assert abs(column - 50) == pytest.approx(8 * (x != 0.5), abs=0.1)


def test_affine_scales_by_ten_percent_at_most(monkeypatch):
    for scale, expected in ((0.0, 0.9), (1.0, 1.1)):
        row, column = centre(moved(monkeypatch, spot(80, 49), scale=scale))
        assert (row - 49.5) / 30.5 == pytest.approx(expected, abs=0.01)
        assert column == pytest.approx(49, abs=0.2)


def test_affine_turns_by_twelve_degrees_at_most_without_mirroring(monkeypatch):
    turned = []
    for angle in (0.0, 1.0):
        row, column = centre(moved(monkeypatch, spot(90, 50), angle=angle))
        turned.append(np.degrees(np.arctan2(column - 49.5, row - 49.5)))
        assert np.hypot(row - 49.5, column - 49.5) == pytest.approx(40.5, abs=0.3)
    assert sorted(turned) == pytest.approx([-12, 12], abs=1)


def test_cutout_greys_one_square_of_each_image_and_touches_nothing_else():
    batch = images(200, channels=3, height=32, width=32)
    hidden = (cutout(batch, generator()) != batch).any(1)  # grey pixels that were grey before do not show
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert int(rows.max()) == int(columns.max()) == 8, "a quarter of the side"
    assert int(rows.min()) >= 4, "at the rim half of the square is outside"
    out = cutout(batch, generator())
    assert bool((out[hidden[:, None].expand_as(out)] == 128).all())
    assert len({tuple(map(int, torch.nonzero(mask)[0])) for mask in hidden}) > 100, "anywhere"


def test_shrinking_keeps_means_and_leaves_a_flat_image_flat():
    flat = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    assert torch.allclose(shrink(flat, 24), torch.full((1, 3, 24, 24), 200.0))
    noise = images(4, height=32, width=32)
    assert torch.allclose(shrink(noise, 16).mean((1, 2, 3)), noise.float().mean((1, 2, 3)), rtol=0.03)
