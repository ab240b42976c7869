"""What the documentation names must exist, what it shows must run, and every command must be in it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import importlib.util
import io
import itertools
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from pages import PAGES, ROOT, Block, anchors, blocks, calls, inline_codes, links, name, text
from running_nodes import Split
from typer.testing import CliRunner

import branchynet
from branchynet.artifact import zoo
from cli.main import app
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings

# The changelog may name what is gone.
OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]
SETTINGS = {"edge": EdgeSettings, "cloud": CloudSettings}
SNIPPETS = [block for page in PAGES for block in blocks(page) if block.language == "python"]
COMMAND_BLOCKS = [block for page in PAGES for block in blocks(page) if block.run and not block.language]
BANNED = re.compile(
    r"yard-?stick|weak edge|way home|in vain|courier|steady load|local_only|tried_again|sent_again|--max-drop", re.I
)
# What has code that the pages speak of.
CODE = ("benchmarks", "branchynet", "cli", "cloud_node", "edge_node", "examples", "orchestrator", "simulations")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below *command* by the words that call it, groups left out."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for word, below in command.commands.items():
        yield from walk(below, (*path, word))


@cache
def commands() -> dict[str, Any]:
    return dict(walk(typer.main.get_command(app)))


@cache
def source(*folders: str) -> str:
    """All Python text of *folders*."""
    return " ".join(text(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


@cache
def flags(words: str) -> set[str]:
    """The flags that *words*, a command, takes."""
    if words in SETTINGS:
        return {f"--{field.replace('_', '-')}" for field in SETTINGS[words].model_fields} | {"--help"}
    found = itertools.chain.from_iterable((*option.opts, *option.secondary_opts) for option in commands()[words].params)
    return {flag for flag in found if flag.startswith("-")} | {"--help"}


def problem(arguments: list[str]) -> str | None:
    """What is wrong with `branchynet ARGUMENTS`, if anything; a word in capitals stands for any command."""
    if arguments[0].isupper() or arguments[0] in ("…", "--help", "--version"):
        return None
    known = commands()
    words = next((call for size in (2, 1) if (call := " ".join(arguments[:size])) in known), None)
    if words is None:
        groups = {call.split()[0] for call in known if " " in call}
        return None if arguments in [[group] for group in groups] else f"no command {arguments[:2]}"
    unknown = {part.split("=")[0] for part in arguments if re.match(r"--?[a-z]", part)} - flags(words)
    return f"{words} has no {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_only_commands_and_flags_that_exist(page: Path) -> None:
    problems = {found for arguments in calls(page, "branchynet") if (found := problem(arguments))}
    assert not problems


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_a_flag_that_stands_alone_is_one_of_some_program(page: Path) -> None:
    known = set(itertools.chain.from_iterable(flags(words) for words in commands()))
    programs = source("benchmarks", "simulations", "orchestrator", "examples")
    alone = {code.split()[0].split("=")[0] for code in inline_codes(page) if code.startswith("--")}
    assert not {flag for flag in alone - known if f'"{flag}"' not in programs}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_modules_and_targets_that_a_page_calls_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), flags=re.M))
    for arguments in calls(page, "make"):
        assert arguments[0] in targets
    for arguments in calls(page, "python"):
        called = _script(arguments)
        assert called.exists()
        assert not {flag for flag in arguments if flag.startswith("--") and not _takes(called, flag)}


def _script(arguments: list[str]) -> Path:
    """The file that `python ARGUMENTS` runs."""
    if arguments[0] != "-m":
        return ROOT / arguments[0]
    spec = importlib.util.find_spec(arguments[1])
    assert spec is not None and spec.origin is not None, f"no module {arguments[1]}"
    return Path(spec.origin).with_name("__main__.py") if spec.submodule_search_locations else Path(spec.origin)


def _takes(script: Path, flag: str) -> bool:
    """Whether *script* names *flag*, Typer makes it of a parameter, or it is the edge's, and passed on."""
    parameter = rf"\b{flag.removeprefix('--').replace('-', '_')}: "
    passed_on = "edge_node" in text(script) and flag in flags("edge")
    return f'"{flag}"' in text(script) or bool(re.search(parameter, text(script))) or passed_on


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_is_in_the_reference_and_on_another_page(words: str) -> None:
    naming = {
        name(page) for page in PAGES for called in calls(page, "branchynet") if " ".join(called).startswith(words)
    }
    assert "docs/reference/cli.md" in naming
    assert {page for page in naming if page.startswith("docs/") and "reference" not in page}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What MkDocs calls to fill the generated parts of pages."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_flag_setting_and_public_name(hooks: ModuleType) -> None:
    pages = "".join(hooks.on_page_markdown(text(page)) for page in (ROOT / "docs" / "reference").glob("*.md"))
    for words in commands():
        assert f"### branchynet {words}\n" in pages
        assert not {flag for flag in flags(words) - {"--help"} if f"`{flag}`" not in pages}
    for public in set(branchynet.__all__) - {"__version__"}:
        assert re.search(rf"^::: branchynet\.[\w.]+\.{public}$|^::: branchynet\.{public}$", pages, flags=re.M)
    assert "<!-- generated" not in pages


@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_a_snippet_compiles(block: Block) -> None:
    compile(block.text, name(block.page), "exec")


@pytest.mark.parametrize("block", [block for block in SNIPPETS if block.run and "127.0.0.1" not in block.text], ids=str)
def test_a_snippet_prints_what_is_shown(block: Block) -> None:
    assert block.shows in (None, _printed(block.text))


@pytest.mark.parametrize("block", [block for block in SNIPPETS if block.run and "127.0.0.1" in block.text], ids=str)
async def test_a_client_prints_what_is_shown(split: Split, block: Block) -> None:
    # A busy machine must not turn an answer of the cloud into a fallback.
    program = block.text.replace("127.0.0.1:8001", split.edge.target).replace("deadline_ms=500", "deadline_ms=20_000")
    assert await asyncio.to_thread(_printed, program) == block.shows


def _printed(program: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "<snippet>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=str)
def test_a_command_that_is_cheap_runs(block: Block) -> None:
    for arguments in (line.split()[1:] for line in block.text.splitlines()):
        ended = CliRunner().invoke(app, arguments)
        assert ended.exit_code == 0, ended.output


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"no {link}"
        assert not anchor or anchor in anchors(target), f"no heading for {link}"


@pytest.mark.parametrize("page", OF_TODAY, ids=name)
def test_one_word_a_thing(page: Path) -> None:
    assert not BANNED.findall(text(page))


def test_the_first_page_is_one_screen_and_a_half() -> None:
    assert len(text(ROOT / "README.md").encode()) <= 9_000


def test_every_shipped_artifact_has_its_results() -> None:
    assert not {shipped for shipped in zoo.shipped() if f"`{shipped}`" not in text(ROOT / "docs/results/shipped.md")}


def test_the_map_of_the_tree_and_the_drawing_have_every_package() -> None:
    layers = [
        re.split(r" \| ", layer)
        for contract in tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
        for layer in contract.get("layers", ())
    ]
    page, drawing = text(ROOT / "docs/architecture.md"), text(ROOT / "docs/img/imports.svg")
    for part in set(itertools.chain.from_iterable(layers)) - {"errors"}:
        assert re.search(rf"^ *{part}(/|\.py) ", page, flags=re.M), f"{part} is not on the map"
        assert re.search(rf"\b{part}\b", drawing), f"{part} is not in the drawing"


@pytest.mark.parametrize("drawing", sorted((ROOT / "docs/img").glob("*.svg")), ids=name)
def test_a_drawing_has_a_title_and_two_sets_of_colours_and_is_shown(drawing: Path) -> None:
    root = ElementTree.parse(drawing).getroot()
    assert root.findtext("{http://www.w3.org/2000/svg}title")
    assert "prefers-color-scheme: dark" in text(drawing)
    assert any(drawing.name in text(page) for page in PAGES)


@pytest.mark.parametrize("table", sorted((ROOT / "docs/results/data").glob("*.csv")), ids=name)
def test_a_data_file_is_a_table_and_a_page_tells_of_it(table: Path) -> None:
    head, *rows = csv.reader(io.StringIO(text(table)))
    assert rows
    assert len(set(head)) == len(head)
    assert {len(row) for row in rows} == {len(head)}
    assert any(f"data/{table.name}" in text(page) for page in PAGES if page.parent.name == "results")


def test_the_code_points_to_pages_that_exist() -> None:
    pages = set(re.findall(r"\bdocs/[\w/-]+\.\w+", source(*CODE)))
    assert not {page for page in pages if not (ROOT / page).exists()}


def test_the_code_names_only_commands_and_flags_that_exist() -> None:
    # As `branchynet plan --out` in a message or a docstring, also where a line breaks.
    named = re.findall(r"`branchynet ([a-z][^`{}]*)`", re.sub(r'\s*\n(?:\s*f?")?\s*', " ", source(*CODE)))
    assert not {found for call in named if (found := problem(call.replace('"', "").split()))}


def test_documented_json_keys_are_written_somewhere() -> None:
    page = text(ROOT / "docs/reference/json.md")
    keys = {
        word
        for cell in re.findall(r"^\| (.+?) \|", page, flags=re.M)
        for code in re.findall(r"`([^`]+)`", cell)
        for word in re.findall(r"[a-z_0-9]*[a-z0-9]\b", code)
    }
    assert not keys - set(re.findall(r"\w+", source("benchmarks", "branchynet", "cli", "orchestrator", "simulations")))
