"""Where downloads and graphs are kept: at home, else where they can be; never where somebody else could change them."""

import logging
import os
import pwd
import stat
import tempfile

import pytest

from branchynet.data import cache
from branchynet.data.cache import cache_folder, cache_folders
from branchynet.data.datasets import load
from branchynet.errors import Unavailable


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    """The system's folder for temporary files, of this test alone."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache._temporary.cache_clear()
    yield folder
    cache._temporary.cache_clear()


@pytest.fixture
def homeless(monkeypatch):
    """As in a container that runs under a number that nobody has."""

    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_the_cache_is_at_home_unless_the_variable_is_absolute(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == tmp_path / "home" / ".cache" / "branchynet"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "branchynet"
    assert cache_folders() == (tmp_path / "cache" / "branchynet",)


def test_without_a_home_it_is_a_private_temporary_folder_and_that_is_said_once(homeless, temporary, caplog):
    with caplog.at_level(logging.WARNING):
        folder = cache_folder()
        assert cache_folder() == folder
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(caplog.records) == 1
    assert "no home folder" in caplog.text
    assert str(folder) in caplog.text
    assert cache_folders() == (folder,)  # the next run looks there


def test_a_home_that_cannot_be_written_to_is_still_read(monkeypatch, tmp_path, temporary, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "branchynet").mkdir(parents=True)
    # The tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path / ".cache")))
    with caplog.at_level(logging.WARNING):
        assert cache_folder().parent == temporary
    assert "nothing can be written to" in caplog.text
    assert cache_folders() == (tmp_path / ".cache" / "branchynet", cache_folder())


def test_a_home_that_is_no_folder_is_none(monkeypatch, tmp_path, temporary):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert cache_folder().parent == temporary


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_a_temporary_folder_that_others_could_change_is_not_taken(homeless, temporary, tmp_path, kind):
    taken = temporary / f"branchynet-cache-{os.getuid()}"
    if kind == "open":
        taken.mkdir()
        taken.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        taken.symlink_to(tmp_path / "elsewhere")
    else:
        taken.touch()
    assert cache_folder() != taken
    assert cache_folder().parent == temporary
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    assert cache_folders() == ()


def test_without_any_folder_data_come_from_where_they_can(homeless, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    monkeypatch.setattr("branchynet.data.sources.SYSTEM_FOLDERS", {})
    assert "ONLY A SAMPLE" in load("fashion-mnist", "test").source
    with pytest.raises(Unavailable, match="mnist test was not found"):
        load("mnist", "test")
