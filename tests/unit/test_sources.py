"""Where data sets come from: the cache, and mirrors, which here are a real HTTP server on 127.0.0.1."""

import gzip
import hashlib
import http.server
import logging
import socket
import threading

import numpy as np
import pytest
from dataset_files import FASHION, OWN, cifar_archive, is_set, isolate, write

from branchynet.data import sources
from branchynet.data.datasets import DATASETS, load
from branchynet.errors import InvalidInput, Unavailable


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    return isolate(monkeypatch, tmp_path)


class TestPlaces:
    def test_load_does_not_read_the_variable(self, tmp_path, monkeypatch):
        monkeypatch.setenv("BRANCHYNET_DATA", str(write(tmp_path / "mnist", OWN)))
        with pytest.raises(Unavailable):
            load("mnist", "test")

    def test_the_system_comes_before_the_cache_and_the_cache_before_mirrors(self, tmp_path, cache, monkeypatch):
        write(cache / "fashion-mnist", OWN)
        assert is_set(load("fashion-mnist", "test"), OWN)
        system = write(tmp_path / "system" / "fashion-mnist", FASHION)
        monkeypatch.setattr(sources, "SYSTEM_FOLDERS", {"fashion-mnist": (system,)})
        assert is_set(load("fashion-mnist", "test"), FASHION)

    @pytest.mark.parametrize("name", DATASETS)
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_every_download_has_two_mirrors_and_a_checksum(self, name, split, monkeypatch):
        monkeypatch.undo()
        remotes = sources.remotes(name, split)
        assert [remote.file for remote in remotes] == [
            file if file.endswith(".gz") else f"{file}.gz" for file in sources.layouts(name, split)[-1]
        ]
        for remote in remotes:
            assert len(remote.urls) == 2
            assert all(url.endswith(f"/{remote.file}") for url in remote.urls)
            assert len(bytes.fromhex(remote.sha256)) == 32

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "/etc/passwd"])
    def test_a_mirror_is_http(self, url):
        with pytest.raises(InvalidInput, match="must be http or https"):
            sources.Remote("file", 1, "0" * 64, (url,))

    @pytest.mark.parametrize("file", ["../file", "/file", "a/b", "", ".."])
    def test_a_download_stays_in_its_folder(self, file):
        with pytest.raises(InvalidInput, match="not a plain file name"):
            sources.Remote(file, 1, "0" * 64, ())


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the server's `files`; `/short/` breaks off halfway, `/moved/` redirects, anything else is a 404."""

    def do_GET(self):
        folder, name = self.path.strip("/").split("/")
        self.server.asked.append(self.path)
        content = self.server.files.get(name)
        if folder == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.end_headers()
            return
        if content is None or folder == "none":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if folder == "wrong":
            content = bytes(len(content))
        if folder == "long":
            content += b"more"
        self.wfile.write(content[: len(content) // 2] if folder == "short" else content)

    def log_message(self, *arguments):
        """Say nothing: the tests read the output."""


@pytest.fixture
def mirror():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.files, server.asked = {}, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CONTENT = bytes(range(256)) * 3000


def remote_at(mirror, *folders, file="data.gz", content=CONTENT):
    mirror.files[file] = content
    urls = tuple(f"{mirror.url}/{folder}/{file}" for folder in folders)
    return sources.Remote(file, len(content), hashlib.sha256(content).hexdigest(), urls)


class TestFetch:
    @pytest.mark.parametrize("folder", ["good", "moved"])
    def test_downloads_and_leaves_nothing_else(self, mirror, tmp_path, folder):
        path = sources.fetch(remote_at(mirror, folder), tmp_path / "new" / "cache")
        assert path == tmp_path / "new" / "cache" / "data.gz"
        assert path.read_bytes() == CONTENT
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("bad", "why"),
        [("none", "HTTP Error 404"), ("wrong", "wrong SHA-256"), ("short", "got 384,000 of 768,000 bytes")],
    )
    def test_goes_on_to_the_next_mirror_and_says_so(self, mirror, tmp_path, caplog, bad, why):
        path = sources.fetch(remote_at(mirror, bad, "good"), tmp_path)
        assert path.read_bytes() == CONTENT
        assert mirror.asked == [f"/{bad}/data.gz", "/good/data.gz"]
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert why in record.getMessage()
        assert list(tmp_path.iterdir()) == [path]

    def test_a_dead_mirror_is_only_one_of_them(self, mirror, tmp_path):
        good = remote_at(mirror, "good")
        with socket.socket() as closed_door:
            closed_door.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
            dead = f"http://127.0.0.1:{closed_door.getsockname()[1]}/data.gz"
            remote = sources.Remote(good.file, good.size, good.sha256, (dead, *good.urls))
            assert sources.fetch(remote, tmp_path).read_bytes() == CONTENT

    def test_when_all_fail_the_error_has_every_answer_and_no_file_stays(self, mirror, tmp_path):
        (tmp_path / "data.gz").write_bytes(b"an older file")
        remote = remote_at(mirror, "none", "wrong", "short")
        with pytest.raises(Unavailable) as refusal:
            sources.fetch(remote, tmp_path)
        for part in (*remote.urls, "404", "wrong SHA-256", "got 384,000 of 768,000"):
            assert part in str(refusal.value)
        assert [file.name for file in tmp_path.iterdir()] == ["data.gz"]
        assert (tmp_path / "data.gz").read_bytes() == b"an older file"

    def test_stops_reading_at_the_known_size(self, mirror, tmp_path):
        remote = remote_at(mirror, "good")
        smaller = sources.Remote(remote.file, 1000, remote.sha256, remote.urls)
        with pytest.raises(Unavailable, match="more than the 1,000 bytes expected"):
            sources.fetch(smaller, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_the_name_appears_only_when_all_is_there(self, mirror, tmp_path, monkeypatch):
        seen = []
        check = sources._copy_checked

        def spy(*arguments, **options):
            check(*arguments, **options)
            seen.extend(file.name for file in tmp_path.iterdir())

        monkeypatch.setattr(sources, "_copy_checked", spy)
        sources.fetch(remote_at(mirror, "good"), tmp_path)
        (part,) = seen
        assert part.startswith("data.gz.")
        assert part.endswith(".part")

    def test_an_interrupted_download_leaves_nothing(self, mirror, tmp_path, monkeypatch):
        def interrupted(*arguments, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(sources, "_copy_checked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sources.fetch(remote_at(mirror, "good"), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_silent_mirror_times_out(self, mirror, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "_TIMEOUT_S", 0.05)
        answer = threading.Event()
        monkeypatch.setattr(Mirror, "do_GET", lambda handler: answer.wait(10))
        try:
            with pytest.raises(Unavailable, match="timed out"):
                sources.fetch(remote_at(mirror, "good"), tmp_path)
        finally:
            answer.set()

    def test_a_folder_that_cannot_be_made_is_named(self, mirror, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(Unavailable, match="cannot be made"):
            sources.fetch(remote_at(mirror, "good"), tmp_path / "file" / "cache")
        assert mirror.asked == []

    @pytest.mark.parametrize("progress", [True, False])
    def test_the_bar_is_on_stderr_and_only_when_asked_for(self, mirror, tmp_path, capsys, progress):
        sources.fetch(remote_at(mirror, "good"), tmp_path, progress=progress)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("data.gz" in shown.err) is progress


class TestDownload:
    def test_an_idx_set_is_downloaded_once(self, mirror, cache, monkeypatch):
        remotes = tuple(
            remote_at(mirror, "good", file=f"{file}.gz", content=gzip.compress(content))
            for file, content in OWN.items()
        )
        monkeypatch.setattr(sources, "remotes", lambda name, split: remotes)
        first, again = load("mnist", "test"), load("mnist", "test")
        assert is_set(first, OWN)
        assert np.array_equal(first.images, again.images)
        assert mirror.asked == [f"/good/{file}.gz" for file in OWN]
        assert sorted(file.name for file in (cache / "mnist").iterdir()) == [f"{file}.gz" for file in OWN]

    def test_one_archive_serves_both_splits_of_cifar(self, mirror, cache, monkeypatch):
        remote = remote_at(mirror, "good", file="cifar-10-python.tar.gz", content=cifar_archive())
        monkeypatch.setattr(sources, "remotes", lambda name, split: (remote,))
        assert len(load("cifar10", "train")) == 10
        assert len(load("cifar10", "test")) == 2
        assert mirror.asked == ["/good/cifar-10-python.tar.gz"]
        assert [file.name for file in (cache / "cifar10").iterdir()] == ["cifar-10-python.tar.gz"]

    @pytest.mark.parametrize(
        ("name", "split"),
        [("mnist", "train"), ("mnist", "test"), ("fashion-mnist", "train"), ("cifar10", "test")],
    )
    def test_when_nothing_answers_the_error_says_what_was_tried(self, mirror, cache, monkeypatch, name, split):
        remote = remote_at(mirror, "none")
        monkeypatch.setattr(sources, "remotes", lambda name, split: (remote,))
        with pytest.raises(Unavailable) as refusal:
            load(name, split)
        for part in (name, split, str(cache), *remote.urls, "404", "--data", "BRANCHYNET_DATA"):
            assert part in str(refusal.value)

    def test_only_the_fashion_test_set_falls_back_on_the_sample_and_loudly(self, mirror, monkeypatch, caplog):
        remote = remote_at(mirror, "none")
        monkeypatch.setattr(sources, "remotes", lambda name, split: (remote,))
        dataset = load("fashion-mnist", "test")
        assert len(dataset) == 1000
        assert dataset.source.startswith("ONLY A SAMPLE")
        assert "shipped sample of 1000 images" in caplog.messages[-1]
