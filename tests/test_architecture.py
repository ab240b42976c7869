"""The shape of the code itself: who may import whom, what is public, how long things may get."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import branchynet

ROOT = Path(__file__).parent.parent
ROOMS = ("branchynet", "edge_node", "cloud_node", "protos", "orchestrator", "simulations", "cli")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "_pb2" not in path.name)
MAX_FILE_LINES = 360
MAX_FUNCTION_LINES = 60


def test_import_contracts_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("branchynet", {"torch", "grpc", "google.protobuf", "numpy"}),
        ("branchynet.exits.rules", {"torch", "grpc", "google.protobuf"}),
        ("branchynet.exits.threshold_search", {"torch", "grpc", "google.protobuf"}),
        ("branchynet.network.stages", {"grpc", "google.protobuf"}),
        ("branchynet.network.runner", {"torch", "onnxruntime", "grpc", "google.protobuf"}),
        ("branchynet.network.onnx_runner", {"torch", "onnx", "grpc", "google.protobuf"}),
        ("branchynet.client.client", {"torch"}),
        ("branchynet.rpc.health_check", {"torch", "numpy"}),
        ("simulations.link.proxy", {"torch", "grpc", "google.protobuf"}),
        ("orchestrator.nodes.compose", {"torch", "grpc", "google.protobuf", "numpy", "pydantic"}),
        ("simulations.link.control", {"torch", "grpc", "google.protobuf", "numpy"}),
        ("cli.main", {"torch", "grpc", "matplotlib"}),
    ],
)
def test_a_room_loads_without_what_it_must_not_touch(module, forbidden):
    # A package's __init__ runs at import without being an edge in the import graph, so the contracts miss it.
    program = f"import sys, {module}; print([name for name in {sorted(forbidden)} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit_a_reader(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_public_names_are_those_listed_and_all_load():
    for name in branchynet.__all__:
        assert getattr(branchynet, name) is not None
    assert sorted(branchynet.__all__) == dir(branchynet)
    with pytest.raises(AttributeError, match="'Nothing'"):
        _ = branchynet.Nothing


def _modules():
    for room in ROOMS:
        package = importlib.import_module(room)
        yield room
        for found in pkgutil.walk_packages(package.__path__, f"{room}."):
            if not found.name.endswith("__main__") and "_pb2" not in found.name:
                yield found.name


@pytest.mark.parametrize("name", list(_modules()))
def test_listed_names_exist(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public), f"{name}.__all__ lists {public}"


def test_every_package_is_installed():
    declared = (ROOT / "pyproject.toml").read_text()
    for room in ROOMS:
        assert f'"{room}*"' in declared
