"""Every command refuses what is no address before it does anything, and names the option."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from branchynet.rpc.health_check import main as health_check
from cli.main import app
from cloud_node.__main__ import main as cloud
from edge_node.__main__ import main as edge
from simulations.link.control import main as link_control

OPTIONS = {
    "--edge": ["classify", "--sample", "1", "--edge"],
    "target": ["bench"],
    "--edge of profile": ["profile", "--cloud", "127.0.0.1:8011", "--edge"],
    "--cloud": ["profile", "--edge", "127.0.0.1:8001", "--cloud"],
    "--edge of demo": ["demo", "--edge"],
    "--link-control": ["demo", "--edge", "127.0.0.1:8001", "--link-control"],
    "--ray-address": ["simulate", "--ray-address"],
}
WRONG = {
    "http://127.0.0.1:8001": "begins with http://",
    "127.0.0.1": "it has no port",
    "::1:8001": "an IPv6 host stands in brackets",
    "127.0.0.1:99999": "'99999'",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_address_that_is_none_is_code_2_and_the_option_is_named(
    option: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*OPTIONS[option], wrong], env={"COLUMNS": "200"})
    words = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 2, done.output
    assert option.split(maxsplit=1)[0] in words.lower()
    assert WRONG[wrong] in words
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_address_is_named() -> None:
    done = CliRunner().invoke(app, ["classify", "--sample", "1"], env={"BRANCHYNET_EDGE": "edge", "COLUMNS": "200"})
    assert done.exit_code == 2
    assert "BRANCHYNET_EDGE" in done.output
    assert "'edge' is no address: it has no port" in done.output


@pytest.mark.parametrize("wrong", WRONG)
def test_the_small_programs_say_so_in_a_line(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        health_check([wrong])
    assert ended.value.code == 2
    assert link_control([wrong, "stats"]) == 2
    assert edge([f"--cloud={wrong}"]) == 2
    told = capsys.readouterr().err
    assert told.count(f"{wrong!r} is no address: ") == 3
    assert told.count(WRONG[wrong]) == 3


@pytest.mark.parametrize("node", [edge, cloud])
@pytest.mark.parametrize("wrong", ["127.0.0.1:8001", "*", ""])
def test_a_node_s_host_is_checked(node, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert node([f"--host={wrong}"]) == 2
    assert f"--host: {wrong!r} is no host: " in capsys.readouterr().err
