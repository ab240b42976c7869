"""`branchynet study validate` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running_programs import program

from branchynet.artifact.profile_file import write_profile
from branchynet.placement.serving_profile import ServingProfile, StageTimes

# Of lenet-fashion at cut 0 and 1, as test_comparison.py measures them.
MESSAGE_BYTES = (837, 4_534)


@pytest.mark.timeout(300)
def test_the_same_requests_go_through_real_nodes_and_the_simulator(tmp_path: Path) -> None:
    out = tmp_path / "out"
    times = StageTimes((1,), ((1.0,), (0.6,)))
    profile = tmp_path / "profile.json"
    write_profile(profile, ServingProfile(times, times, (0, 1), 1, 1.0, 1.5, MESSAGE_BYTES, 59, 134))
    asked = ("--requests", "6", "--profile", str(profile), "--out", str(out))
    asked = (*asked, "--json", str(tmp_path / "copy.json"))
    with program("cli.main", "study", "validate", *asked) as running:
        code, printed, err = running.wait(200)
    assert err == ""
    figures = json.loads((out / "validate.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == figures
    # Whether the times agree depends on the profile, which is made up; that the verdict follows from them does not.
    assert code == (0 if figures["agree"] else 1)
    assert len(figures["comparisons"]) == 3
    for one in figures["comparisons"]:
        assert (one["same_exits"], one["same_bytes"]) == (True, True)
        assert one["live"]["share_by_exit"] == one["simulated"]["share_by_exit"]
        assert one["live"]["uplink_bytes_per_request"] == one["simulated"]["uplink_bytes_per_request"]
        assert one["live"]["requests"] == 6 * one["scenario"]["edges"]
        live, simulated = (one[side]["latency_ms"]["mean"] for side in ("live", "simulated"))
        assert one["deviation"] == pytest.approx(simulated / live - 1, abs=1e-3)
        assert one["agrees"] is (abs(one["deviation"]) <= 0.1)
    assert {place for one in figures["comparisons"] for place in one["live"]["share_by_exit"]} == {
        "edge/0",
        "cloud/0",
        "cloud/1",
    }
    assert printed.count("equal") == 6
    assert ("do not agree" in printed) is (code == 1)
