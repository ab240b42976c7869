"""Levels through the entropy coder come back, in as few bytes as their frequencies allow; bad bytes are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_examples import seeded, some

from branchynet.codecs.ans import MARK_BYTES, LevelTables
from branchynet.errors import InvalidInput

MARK = b"mark"


def drawn(count, shape=(3, 4, 4), samples=200, seed=0):
    """Levels of which the higher ones are rarer, more so in some places, uint8 [samples, *shape]."""
    generator = seeded(seed)
    return generator.binomial(count - 1, generator.uniform(0, 0.6, (1, *shape)), (samples, *shape)).astype(np.uint8)


@some
@given(st.integers(2, 20), st.integers(1, 23), st.integers(0, 2**32))
def test_levels_come_back(count, places, seed):
    levels = drawn(count, (places, 1, 1), 20, seed)
    tables = LevelTables.fitted(levels, count)
    any_levels = seeded(seed).integers(0, count, (20, places)).astype(np.uint8)  # also those that were never seen
    for row in (*levels.reshape(20, -1), *any_levels):
        data = tables.encode(row, MARK)
        assert len(data) <= tables.max_bytes
        np.testing.assert_array_equal(tables.decode(data, MARK), row)


@pytest.mark.parametrize("count", [2, 4, 5, 16, 256])
def test_the_bytes_are_those_of_the_entropy_and_the_mark(count):
    levels = drawn(count)
    tables = LevelTables.fitted(levels, count)
    flat = levels.reshape(len(levels), -1)
    chosen = np.take_along_axis(tables.frequencies[None].astype(np.float64), flat[:, :, None].astype(np.int64), axis=2)
    entropy_bytes = -np.log2(chosen / 4096).sum(axis=(1, 2)).mean() / 8
    mean = np.mean([len(tables.encode(row, MARK)) for row in flat])
    assert MARK_BYTES + entropy_bytes - 0.1 < mean < MARK_BYTES + 1.01 * entropy_bytes + 1


def test_a_place_that_is_always_the_same_takes_nothing():
    levels = np.full((1000, 2, 8, 8), 3, np.uint8)
    assert len(LevelTables.fitted(levels, 4).encode(levels[0].reshape(-1), MARK)) == MARK_BYTES


def test_what_was_seen_nowhere_at_a_place_follows_its_channel():
    levels = np.zeros((4, 1, 1, 2), np.uint8)
    levels[:, 0, 0, 1] = 2
    frequencies = LevelTables.fitted(levels, 3).frequencies
    assert frequencies[0, 2] > 3 * frequencies[0, 1]


TABLES = LevelTables.fitted(drawn(4), 4)
GOOD = TABLES.encode(drawn(4)[0].reshape(-1), MARK)


@pytest.mark.parametrize(
    ("data", "mark", "complaint"),
    [
        (GOOD, b"murk", "made with other weights"),
        (GOOD[:-1], MARK, "they are damaged"),
        (GOOD[1:], MARK, "they are damaged"),
        (GOOD + b"\1", MARK, "they are damaged"),
        (GOOD + b"\0", MARK, "they are damaged"),
        (bytes([GOOD[0] ^ 1]) + GOOD[1:], MARK, "they are damaged"),
        (b"", MARK, "the codes take 0 bytes"),
        (bytes(1_000_000), MARK, "take 1000000 bytes, it must be 4 to"),
    ],
)
def test_bytes_that_were_not_made_with_the_mark_are_refused(data, mark, complaint):
    np.testing.assert_array_equal(TABLES.decode(GOOD, MARK), drawn(4)[0].reshape(-1))
    with pytest.raises(InvalidInput, match=complaint):
        TABLES.decode(data, mark)


@pytest.mark.parametrize(
    "frequencies", [[[4096, 0]], [[2048, 2047]], [[5000, -904]], [[4096]], [], [2048, 2048], [[[2048, 2048]]]]
)
def test_frequencies_that_do_not_add_up_are_refused(frequencies):
    with pytest.raises(InvalidInput, match="frequencies"):
        LevelTables(np.array(frequencies, np.int64))
