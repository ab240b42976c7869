"""What the containers' demonstration takes from a scenario, and what it refuses."""

import pytest

from branchynet.errors import InvalidInput
from orchestrator.nodes.compose import FAULTS, ORDERS, SERVICES, read_for_containers
from simulations.model.scenario import Fault


def written(folder, text):
    (folder / "demo.toml").write_text(text)
    return folder / "demo.toml"


def test_links_become_variables_and_faults_are_those_of_the_scenario(tmp_path):
    text = """
edges = 2
[link]
uplink_mbps = 2.5
rtt_ms = 80
[[faults]]
part = "link-1"
kind = "freeze"
at_s = 3
for_s = 4
"""
    assert read_for_containers(written(tmp_path, text)) == (
        {"UPLINK_MBPS": "2.5", "DOWNLINK_MBPS": "50", "RTT_MS": "80"},
        [("link-1", "freeze", 3.0, 4.0)],
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("edges = 3", "containers have `edges = 2`, the link and the faults only"),
        ("edges = 2\n[plan]\ncut = 0", "the link and the faults only"),
        ("edges = 2\n[link]\nuplink_mbps = {states = [1, 2], mean_stay_s = [1, 1]}", "has a constant rate"),
    ],
)
def test_what_containers_cannot_take_is_refused(tmp_path, text, says):
    with pytest.raises(InvalidInput, match=says):
        read_for_containers(written(tmp_path, text))


def test_what_happens_unasked_is_what_a_scenario_could_say():
    for part, kind, at_s, for_s in FAULTS:
        fault = Fault(part=part, kind=kind, at_s=at_s, for_s=for_s)
        assert fault.part in SERVICES
        assert fault.kind in ORDERS
