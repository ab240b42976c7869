"""A request brings no more samples than one message bears, whatever the settings say."""

import pytest

from branchynet.artifact.artifact import Artifact
from branchynet.errors import InvalidInput
from branchynet.rpc.message_limits import MAX_MESSAGE_BYTES, MESSAGE_OVERHEAD_BYTES, bounded_batch
from branchynet.serving.settings import read_settings
from cloud_node.build import open_cloud
from cloud_node.settings import CloudSettings
from edge_node.build import open_edge
from edge_node.settings import EdgeSettings

FULL_HD = 4 * 3 * 1080 * 1920


def test_small_samples_are_bounded_by_the_setting_and_large_ones_by_their_bytes():
    assert bounded_batch(256, 3_136) == (256, 256 * 3_136 + MESSAGE_OVERHEAD_BYTES)
    batch, message = bounded_batch(256, FULL_HD)
    assert batch == 10
    assert message <= MAX_MESSAGE_BYTES < message + FULL_HD


def test_a_sample_that_no_message_bears_is_refused_with_both_sizes():
    with pytest.raises(InvalidInput, match=rf"{MAX_MESSAGE_BYTES + 1} bytes, a message at most {MAX_MESSAGE_BYTES}"):
        bounded_batch(1, MAX_MESSAGE_BYTES + 1)


async def test_both_nodes_take_any_setting_and_say_what_they_take():
    sample_bytes = Artifact.open("lenet-fashion").manifest.max_sample_bytes
    batch, message = bounded_batch(65_536, sample_bytes)
    assert batch < 65_536
    flags = ["--port", "0", "--max-batch", "65536"]
    with open_cloud(read_settings(CloudSettings, flags, "cloud")) as (cloud, limit):
        assert (cloud.served.max_batch, limit) == (batch, message)
    async with open_edge(read_settings(EdgeSettings, [*flags, "--cloud", ""], "edge")) as (edge, limit):
        assert (edge.served.max_batch, limit) == (batch, message)
