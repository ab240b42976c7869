import pytest
import torch
from exported_examples import IMAGES, SMALL, small_network
from network_examples import (
    HELD_OUT,
    LENET,
    TINY,
    TRAINING,
    mixing_rule,
    opened,
    pictures,
    random_network,
    save_artifact,
    title,
)
from node_examples import LIMITS

from branchynet.training.trainer import train
from cloud_node.node import CloudNode
from cloud_node.version import CloudVersion
from edge_node.node import EdgeNode
from edge_node.version import EdgeVersion

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory):
    """Folder of an artifact of an architecture's random network; each is written once."""
    folders = {}

    def of(architecture):
        if architecture not in folders:
            network = random_network(architecture)
            rule = mixing_rule(network, pictures(architecture, 2 * network.exits))
            folders[architecture] = tmp_path_factory.mktemp(title(architecture))
            save_artifact(folders[architecture], network, architecture, rule)
        return folders[architecture]

    return of


@pytest.fixture(scope="session")
def loaded(artifact_folder):
    """That artifact and its stages [first, last) as they come from disk; each range is loaded once."""
    parts = {}

    def of(architecture, first=0, last=None):
        key = architecture, first, last
        if key not in parts:
            parts[key] = opened(artifact_folder(architecture), first, last)
        return parts[key]

    return of


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory):
    """Folder of an exported artifact; its rule lets some of `IMAGES` leave at every exit."""
    folder = tmp_path_factory.mktemp("exported")
    save_artifact(folder, small_network(), SMALL.name, mixing_rule(small_network(), IMAGES))
    return folder


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A training that nothing stopped: its result, its folder, and every step it reported."""
    folder, steps = tmp_path_factory.mktemp("straight"), []
    return train(TINY, TRAINING, HELD_OUT, folder, steps.append), folder, steps


@pytest.fixture
def nodes(loaded):
    """Makes edges and clouds of the examples' artifacts, and ends their threads."""
    made = []

    def edge(uplink, architecture=LENET, cut=1, limits=LIMITS, max_batch=64, plan=None, slowdown=1.0, **more):
        version = EdgeVersion(*loaded(architecture, 0, cut), uplink, limits, max_batch, **more)
        made.append(EdgeNode(version, slowdown))
        if plan is not None:
            made[-1].adopt(plan)
        return made[-1]

    def cloud(architecture=LENET, first=0, max_batch=64):
        made.append(CloudNode(CloudVersion(*loaded(architecture, first), max_batch)))
        return made[-1]

    edge.cloud = cloud
    yield edge
    for node in made:
        node.close()
