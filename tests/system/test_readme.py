"""What the README shows must work as shown."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from branchynet.models import zoo
from cli.main import app

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^branchynet ([a-z]+)(.*?)(?:#.*|&)?$", README, flags=re.M)))


PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, flags=re.S)


@pytest.mark.parametrize(("program", "output"), PROGRAMS, ids=[program.split()[1] for program, _ in PROGRAMS])
async def test_the_python_programs_print_what_is_shown(split, program, output):
    # A busy machine must not turn an answer of the cloud into a fallback.
    program = program.replace("127.0.0.1:8001", split.edge.target).replace("deadline_ms=500", "deadline_ms=20_000")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode() == output


def test_all_python_programs_show_their_output():
    assert len(PROGRAMS) == README.count("```python") == 3


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_the_commands_take_the_options_that_are_shown(command, arguments):
    if command in ("edge", "cloud"):
        done = subprocess.run(
            [sys.executable, "-m", f"{command}_node", "--help"], capture_output=True, text=True, check=True
        )
        shown = done.stdout
    else:
        group = arguments.split()[:1] if command == "fleet" else []
        result = CliRunner().invoke(app, [command, *group, "--help"], env={"COLUMNS": "200"})
        assert result.exit_code == 0
        shown = result.output
    for option in re.findall(r"--[a-z-]+", arguments):
        assert option in shown


def test_the_readme_names_every_command_and_every_shipped_artifact():
    listed = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for command in re.findall(r"^│ ([a-z]+) ", listed, flags=re.M):
        assert f"`branchynet {command}`" in README
    for name in zoo.shipped():
        assert f"`{name}`" in README


def test_links_in_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
