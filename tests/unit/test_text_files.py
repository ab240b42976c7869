"""Scenarios, plans, profiles, settings and manifests as they lie on disks; only our errors for what they are not."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import read_manifest
from branchynet.artifact.plan_file import read_plan, read_plan_file
from branchynet.artifact.profile_file import read_profile
from branchynet.data.text_files import MOST_NESTED, read_json, read_text, read_toml
from branchynet.errors import BranchyNetError
from branchynet.serving.settings import read_settings
from cloud_node.settings import CloudSettings
from simulations.model.scenario import read_scenario

MANIFEST = Artifact.open("lenet-fashion").manifest
# What editors on Windows, and `>` in its shell, make of a text.
WRITTEN = {
    "a mark": lambda text: text.encode("utf-8-sig"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "a mark and Windows line ends": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "UTF-16": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, large end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_documents_of_other_systems_are_read(tmp_path: Path, how: str) -> None:
    written, path = WRITTEN[how], tmp_path / "file"
    path.write_bytes(written("# a street: näher\nedges = 3\n[link]\nrtt_ms = 7\n"))
    scenario = read_scenario(path)
    assert (scenario.edges, scenario.link.rtt_ms) == (3, 7.0)
    path.write_bytes(written('{"cut": 1,\n "edge_only": true}\n'))
    assert read_plan(path, MANIFEST).edge_only
    path.write_bytes(written("[cloud]\nmax_batch = 7\n"))
    assert read_settings(CloudSettings, ["--config", str(path), "--artifact", "x"], program="cloud").max_batch == 7
    folder = tmp_path / "artifact"
    folder.mkdir()
    source = Artifact.open("lenet-fashion").folder / "manifest.json"
    (folder / "manifest.json").write_bytes(written(source.read_text(encoding="utf-8")))
    assert read_manifest(folder) == MANIFEST


DEEP = 100_000
HOSTILE = {
    "deep arrays": b"a = " + b"[" * DEEP,
    "deep tables": b"[" + b"a." * 2_000 + b"a]\n",
    "deep JSON": b"[" * DEEP,
    "deep JSON objects": b'{"a":' * DEEP,
    "deep and closed": b'{"training": ' + b"[" * 500 + b"]" * 500 + b"}",
    "a number without end": b"a = " + b"9" * 5_000,
    "a JSON number without end": b'{"cut": ' + b"9" * 5_000 + b"}",
    "no text": b"\xff\xfe\x00",
    "no UTF-8": b"a = '\xe4'",
    "nothing": b"",
}


def read_by_all(path: Path) -> None:
    """Have each reader of documents read *path*, which may be none; anything but our error goes through."""
    (path.parent / "manifest.json").write_bytes(path.read_bytes())
    for read in (
        lambda: read_scenario(path),
        lambda: read_plan(path, MANIFEST),
        lambda: read_plan_file(path),
        lambda: read_profile(path),
        lambda: read_manifest(path.parent),
        lambda: read_settings(CloudSettings, ["--config", str(path), "--artifact", "x"], program="cloud"),
    ):
        with contextlib.suppress(BranchyNetError):
            read()


@pytest.mark.parametrize("content", HOSTILE)
def test_what_is_no_document_is_refused_by_our_errors(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[content])
    read_by_all(path)


PIECES = st.sampled_from(
    [b"[", b"]", b"{", b"}", b"a = ", b'"cut"', b":", b"1", b",", b"\n", b"\xef\xbb\xbf", b"'", b"."]
)


@given(st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=60))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b'{"cut": 1e999}')
def test_any_bytes_give_a_document_or_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    read_by_all(path)


def test_what_is_nested_as_ours_is_read_and_a_level_more_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for levels, legal in ((MOST_NESTED, True), (MOST_NESTED + 1, False)):
        path.write_text("[" * levels + "]" * levels)
        if legal:
            assert json.dumps(read_json(path)) == path.read_text()
        else:
            with pytest.raises(ValueError, match="nested more than 64 levels"):
                read_json(path)
    path.write_text("x = " + "[" * (MOST_NESTED - 1) + "]" * (MOST_NESTED - 1))
    assert read_toml(path)
    path.write_bytes(b"one\rtwo\r\nthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"
