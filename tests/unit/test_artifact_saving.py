"""A save that breaks off, wherever it does, leaves the old artifact or the new one; the next save leaves no trace."""

import json
import subprocess
import sys

import pytest
from network_examples import random_network, save_artifact

from branchynet.artifact.artifact import Artifact
from branchynet.errors import DamagedData

# In a folder lies one artifact, and another is saved over it by processes that end without a word at their first,
# second, … renaming of a file, until one comes to its end; or by one that may write no file beyond a limit.
BROKEN_OFF = """
import json, os, resource, shutil, sys
from pathlib import Path
from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import write_manifest

old, new, room, limit = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
manifest = Artifact.open(new).manifest
files = {name: new / name if name.startswith("stage-0") else (new / name).read_bytes() for name in manifest.files}
replace = Path.replace
last, code = 0, 9
while code == 9:
    last += 1
    folder = room / str(last)
    shutil.copytree(old, folder)
    child = os.fork()
    if child == 0:
        calls = 0
        def counted(self, target):
            global calls
            calls += 1
            if calls == last and not limit:
                os._exit(9)
            return replace(self, target)
        Path.replace = counted
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_manifest(folder, manifest, files)
        except OSError as error:
            print(error, flush=True)
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"last": last, "code": code}))
"""


@pytest.fixture
def both(tmp_path):
    return [save_artifact(tmp_path / name, random_network(seed=seed)) for name, seed in (("old", 1), ("new", 2))]


def broken_off(both, limit=0):
    old, new = (artifact.folder for artifact in both)
    arguments = map(str, (old, new, old.parent / "room", limit))
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_OFF, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    *said, end = done.stdout.splitlines()
    return old.parent / "room", said, json.loads(end)


def test_a_save_that_is_killed_leaves_the_old_artifact_or_the_new_one(both, tmp_path):
    room, _, end = broken_off(both)
    assert end["code"] == 0
    # Each file gets a whole content under a name in waiting, by one renaming or a link, and then its own name.
    assert end["last"] - 1 == 2 + 1 + 3
    old, new = (artifact.manifest.content_hash for artifact in both)
    found = []
    for number in range(1, end["last"] + 1):
        artifact = Artifact.open(room / str(number))
        artifact.trunk()  # reads every file
        found.append(artifact.manifest.content_hash)
        # What was left is copied as it is, and what is saved over it leaves the usual names only.
        copy = artifact.save(tmp_path / "copies" / str(number))
        artifact.save()
        for folder in (copy.folder, artifact.folder):
            Artifact.open(folder).trunk()
            names = {path.name for path in folder.iterdir() if path.suffix != ".part"}
            assert names == {"manifest.json", *artifact.manifest.all_files}
    turn = found.index(new)
    assert turn > 2
    assert (set(found[:turn]), set(found[turn:])) == ({old}, {new})


def test_a_save_on_a_full_disk_leaves_every_file_as_it_was(both):
    largest = max(path.stat().st_size for path in both[1].folder.iterdir())
    room, said, end = broken_off(both, largest - 1)
    assert end == {"last": 1, "code": 2}
    assert "File too large" in said[0]
    before, after = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (both[0].folder, room / "1")
    )
    assert after == before


def test_a_file_that_waits_for_its_name_is_checked_like_any_other(tmp_path):
    artifact = save_artifact(tmp_path, random_network())
    name, digest = next(iter(artifact.manifest.files.items()))
    (tmp_path / name).rename(tmp_path / f"{name}.{digest[:16]}.new")
    artifact.network()
    (tmp_path / f"{name}.{digest[:16]}.new").write_bytes(b"other")
    with pytest.raises(DamagedData, match="SHA-256"):
        artifact.network()
