"""The list of deliberate breaks fits the code, and the script that tries them can tell a caught one from a survivor."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "deliberate_breaks.py"))
BREAKS = SCRIPT["read_breaks"]()
Break = SCRIPT["Break"]
ROOMS = ("branchynet", "edge_node", "cloud_node", "protos", "orchestrator", "simulations", "cli")


def packages():
    """Each package that has a subject of its own, as the folder that its files begin with."""
    for room in ROOMS:
        inner = [] if room == "cli" else sorted((ROOT / room).glob("*/__init__.py"))
        yield from (f"{path.parent.relative_to(ROOT)}/" for path in inner or [ROOT / room / "__init__.py"])


def test_every_entry_fits_the_code_and_names_tests_that_are_there():
    assert SCRIPT["faults"](BREAKS) == []


def test_there_are_enough_of_them():
    assert len(BREAKS) >= 60


@pytest.mark.parametrize("package", list(packages()))
def test_every_package_is_broken_somewhere(package):
    assert any(one.file.startswith(package) for one in BREAKS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"file": "a.txt"}, "a.txt is not there"),
        ({"old": "b"}, "'b' is 2 times in a.py; it must be there once"),
        ({"old": "c"}, "'c' is 0 times in a.py; it must be there once"),
        ({"new": "if"}, "the broken a.py is no Python: "),
        ({"tests": ()}, "it names no tests"),
        ({"tests": ("b.py",)}, "b.py is not there"),
        ({"tests": ("a.py::test_b",)}, "a.py::test_b is not there"),
    ],
)
def test_an_entry_that_proves_nothing_is_refused(tmp_path, change, fault):
    (tmp_path / "a.py").write_text("a = b + b\n")
    sound = {"name": "it", "file": "a.py", "old": "a =", "new": "c =", "tests": ("a.py",)}
    assert SCRIPT["faults"]([Break(**sound)], tmp_path) == []
    (line,) = SCRIPT["faults"]([Break(**{**sound, **change})], tmp_path)
    assert line.startswith(f"it: {fault}")


TINY_LIST = """
[[break]]
name = "it adds up less"
file = "sums.py"
old = "+"
new = "-"
tests = ["tests/test_sums.py"]

[[break]]
name = "it is called something else"
file = "sums.py"
old = "Sums."
new = "Totals."
tests = ["tests/test_sums.py"]
"""


@pytest.fixture
def tiny(tmp_path):
    """A tracked tree with one module, its test, the script, and a break that is caught beside one that is not."""
    files = {
        "sums.py": '"""Sums."""\n\n\ndef total(a, b):\n    return a + b\n',
        "tests/test_sums.py": "from sums import total\n\n\ndef test_total():\n    assert total(2, 1) == 3\n",
        "tests/deliberate_breaks.toml": TINY_LIST,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "scripts").mkdir()
    shutil.copy2(ROOT / "scripts" / "deliberate_breaks.py", tmp_path / "scripts")
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def try_breaks(root, *options):
    script = root / "scripts" / "deliberate_breaks.py"
    return subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=False)


def test_a_break_is_caught_by_its_test_and_a_survivor_is_code_1(tiny):
    before = (tiny / "sums.py").read_text()
    done = try_breaks(tiny)
    assert done.returncode == 1
    caught, survived, total = done.stdout.splitlines()[1:]
    assert "it adds up less" in caught
    assert caught.endswith("tests/test_sums.py::test_total")
    assert "it is called something else" in survived
    assert survived.endswith("SURVIVED")
    assert total.startswith("1 of 2 breaks were caught")
    assert (tiny / "sums.py").read_text() == before


def test_breaks_can_be_chosen_and_all_caught_is_code_0(tiny):
    done = try_breaks(tiny, "--only", "LESS", "--jobs", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("1 of 1 breaks were caught")


def test_tests_that_fail_on_the_unbroken_code_prove_nothing(tiny):
    (tiny / "sums.py").write_text((tiny / "sums.py").read_text().replace("a + b", "a + 2 * b"))
    done = try_breaks(tiny)
    assert done.returncode == 1
    assert "not even the unbroken code passes" in done.stderr
    assert "tests/test_sums.py::test_total" in done.stderr


def test_a_list_that_does_not_fit_is_code_1_before_anything_runs(tiny):
    (tiny / "sums.py").write_text('"""Sums."""\n')
    done = try_breaks(tiny)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "it adds up less: '+' is 0 times in sums.py; it must be there once\n"
