"""Corrupted images: what each kind does, that it grows with severity, and that it repeats."""

import numpy as np
import pytest
from network_examples import seeded

from branchynet.data.corruptions import SEVERITIES, Corruption, corrupt
from branchynet.errors import InvalidInput

IMAGES = np.repeat(np.repeat(seeded(1).integers(60, 190, (40, 3, 4, 4)), 4, axis=2), 4, axis=3).astype(np.uint8)


@pytest.mark.parametrize("kind", Corruption)
def test_images_stay_images_and_move_further_with_severity(kind):
    untouched, distances = IMAGES.copy(), []
    for severity in SEVERITIES:
        worse = corrupt(IMAGES, kind, severity)
        assert worse.shape == IMAGES.shape
        assert worse.dtype == np.uint8
        distances.append(np.abs(worse.astype(int) - IMAGES).mean())
    assert distances[0] > 0.5
    assert distances == sorted(set(distances))
    np.testing.assert_array_equal(IMAGES, untouched)


@pytest.mark.parametrize("kind", Corruption)
def test_an_image_is_corrupted_by_itself_and_the_same_way_again(kind):
    again = corrupt(IMAGES, kind, 3, seed=5)
    np.testing.assert_array_equal(again, corrupt(IMAGES, kind, 3, seed=5))
    np.testing.assert_array_equal(again[:7], corrupt(IMAGES[:7], kind, 3, seed=5))
    other = corrupt(IMAGES, kind, 3, seed=6)
    assert (again == other).all() == (kind is not Corruption.NOISE)


def test_noise_has_the_deviation_it_says():
    grey = np.full((50, 1, 28, 28), 128, np.uint8)
    assert corrupt(grey, Corruption.NOISE, 3).std() == pytest.approx(0.12 * 255, rel=0.02)


def test_brightness_is_added_and_stops_at_white():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(corrupt(ramp, Corruption.BRIGHTNESS, 3).ravel(), np.minimum(np.arange(256) + 51, 255))


def test_contrast_keeps_the_mean_and_the_share():
    worse = corrupt(IMAGES, Corruption.CONTRAST, 2).astype(float)
    np.testing.assert_allclose(worse.mean(axis=(1, 2, 3)), IMAGES.mean(axis=(1, 2, 3)), atol=0.5)
    np.testing.assert_allclose(worse.std(axis=(1, 2, 3)), 0.5 * IMAGES.std(axis=(1, 2, 3)), rtol=0.02)


def test_a_blurred_point_becomes_a_gaussian_and_even_images_stay():
    point = np.zeros((1, 1, 15, 15), np.uint8)
    point[0, 0, 7, 7] = 255
    blurred = corrupt(point, Corruption.BLUR, 5)[0, 0].astype(float)
    distance = np.hypot(*(np.indices((15, 15)) - 7))
    expected = np.exp(-0.5 * (distance / 1.5) ** 2)
    expected = 255 * np.where(distance <= 4, expected, 0) / expected.sum()
    np.testing.assert_allclose(blurred[distance <= 4], expected[distance <= 4], atol=1.0)
    even = np.full((1, 3, 8, 8), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(even, Corruption.BLUR, 5), even)


@pytest.mark.parametrize("severity", [0, 6])
def test_another_severity_is_refused(severity):
    with pytest.raises(InvalidInput, match=f"severity is {severity}"):
        corrupt(IMAGES, Corruption.NOISE, severity)
