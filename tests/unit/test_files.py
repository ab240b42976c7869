"""Files that we write: each takes the old one's place in one step or leaves it, whatever the file and its place are."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from branchynet.files import replacing, write_figure, write_json, write_text


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def test_a_file_has_no_name_before_it_is_whole(tmp_path):
    write(tmp_path / "file", b"old")

    def break_off():
        with replacing(tmp_path / "file") as file:
            file.write(b"half")
            file.flush()
            assert (tmp_path / "file").read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_the_folder_is_made_and_the_longest_name_fits(tmp_path):
    path = tmp_path / "a" / "b" / ("ö" * 127)
    write(path)
    assert path.read_bytes() == b"new"


def test_a_new_file_may_be_read_by_whom_the_umask_lets_and_an_old_one_keeps_its_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "new")
        write(tmp_path / "old")
        (tmp_path / "old").chmod(0o604)
        write(tmp_path / "old")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o604


def test_a_link_goes_on_pointing_where_it_did(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for content in (b"first", b"second"):
        write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(timeout=10)
    assert got == [b"new"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_goes_on_behind_what_is_written_to_it(tmp_path, to_file):
    program = (
        "from pathlib import Path\nfrom branchynet.files import write_text\n"
        "print('before')\nwrite_text(Path('/dev/stdout'), 'written\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=out if to_file else subprocess.PIPE, timeout=60, check=True
        )
    assert ((tmp_path / "out").read_bytes() if to_file else done.stdout) == b"before\nwritten\nafter\n"


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(OSError, match=str(tmp_path)) as refused:
            write(path)
        assert ".part" not in str(refused.value)


def test_the_bytes_of_a_file_name_that_are_no_text_come_back_from_json(tmp_path):
    name = os.fsdecode(b"cam \xff.png")
    write_json(tmp_path / "answers.json", {"image": name, "class": "Übermut…"})
    text = (tmp_path / "answers.json").read_bytes().decode()  # any program reads it as UTF-8
    assert "Übermut…" in text
    assert os.fsencode(json.loads(text)["image"]) == b"cam \xff.png"
    write_text(tmp_path / "page.html", name)
    assert (tmp_path / "page.html").read_text() == r"cam \udcff.png"


def test_a_figure_is_what_its_ending_says_and_png_without_one(tmp_path):
    from matplotlib.figure import Figure

    for name, beginning in (("a.svg", b"<?xml"), ("a.PNG", b"\x89PNG"), ("a", b"\x89PNG")):
        write_figure(tmp_path / name, Figure((1, 1)), dpi=50)
        assert (tmp_path / name).read_bytes().startswith(beginning)


def test_a_figure_shows_names_of_others_as_they_are(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure((3, 2))
    axes = figure.subplots()
    axes.set(title=r"$\nothing{$", xlabel=os.fsdecode(b"cam \xff"), ylabel="two\nlines", xscale="log", xlim=(1, 100))
    write_figure(tmp_path / "a.png", figure, dpi=50)
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (r"$\nothing{$", r"cam \xff", "two\nlines")
    assert "mathdefault" in axes.get_xticklabels()[0].get_text()
    assert axes.get_xticklabels()[0].get_parse_math()


# Each of these files is larger than the second run's limit; the first run has none.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from matplotlib.figure import Figure
from branchynet.artifact.plan_file import write_plan
from branchynet.exits.rules import ExitRule
from branchynet.files import write_figure, write_json
from branchynet.placement.plan import Plan
from branchynet.training import checkpoints
from simulations.model.request_records import Records

folder = Path(sys.argv[1])
values = np.random.default_rng(0).random(20_000)

def draw(path):
    figure = Figure()
    figure.figimage(values.reshape(100, 200))
    write_figure(path, figure, dpi=100)

made = {
    "figures.json": lambda path: write_json(path, values.tolist()),
    "plan.json": lambda path: write_plan(path, Plan(1, ExitRule("entropy", tuple(values))), "a", "0"),
    "trunk.pt": lambda path: checkpoints.save(path, {"weights": torch.from_numpy(values)}),
    "plot.png": draw,
    "requests.parquet": lambda path: Records.of(sent_s=values).write_parquet(path),
}
def write_all():
    for name, write in made.items():
        try:
            write(folder / name)
            print(name, "written")
        except OSError as error:
            print(name, error)

write_all()
digests = {path.name: path.read_bytes() for path in folder.iterdir()}
print(min(map(len, digests.values())))
values = values[::-1].copy()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_all()
print({path.name: path.read_bytes() for path in folder.iterdir()} == digests)
"""
FILES = ("figures.json", "plan.json", "trunk.pt", "plot.png", "requests.parquet")


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path):
    """A process may not write files beyond a limit: it fails as on a full disk, in the middle."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    *first, least = done.stdout.splitlines()[: len(FILES) + 1]
    *second, unchanged = done.stdout.splitlines()[len(FILES) + 1 :]
    assert first == [f"{name} written" for name in FILES]
    assert int(least) > 25_000
    assert second == [f"{name} [Errno 27] File too large: {str(tmp_path / name)!r}" for name in FILES]
    assert unchanged == "True"
