"""Readers of the file formats that data sets come in. Bytes in, arrays out; nothing here decides where from.

Three rules hold for every reader in this file:

1. No length written in a file is trusted: it is compared with the bytes that are there.
2. Unpacking stops at a limit of ours, whatever the packed file promises. Whether a file is packed, its first bytes
   say: names lie, as when a browser unpacked it on the way.
3. A pickle is never loaded. CIFAR-10 comes as pickles, so :func:`parse_cifar_pickle` lists the opcodes with
   :mod:`pickletools` and keeps what they *would* build as plain values; nothing that a file names is called. (An
   unpickler that admits no names at all can still be made to allocate gigabytes.)

What breaks a rule raises :class:`~branchynet.errors.DamagedData` with the name of the file and the values.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from branchynet.data.cifar_pickle import CIFAR_PIXELS, describe_pickle, described_array
from branchynet.errors import DamagedData, InvalidInput

__all__ = [
    "PACKED_SUFFIXES",
    "archive_of",
    "packing_of",
    "parse_cifar_binary",
    "parse_cifar_pickle",
    "parse_idx",
    "read_file",
    "read_npz_as_idx",
    "read_tar_members",
    "unpack",
    "write_idx",
]

PACKED_SUFFIXES = (".gz", ".xz")
_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00"}
_UNREAD = {b"PK\x03\x04": "ZIP", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z", b"Rar!": "RAR"}

_Images = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]

# A dictionary of 64 MiB (xz -9) needs 65 MiB to unpack; a header may ask for 4 GiB.
_XZ_MEMORY = 96 * 2**20

_IDX_UINT8 = 0x08
# As many as an array of numpy 1 can have; the files of data sets have 1 or 3.
_IDX_MAX_DIMENSIONS = 32

# An array of Keras' has 47,040,128 bytes at most.
_NPY_LIMIT = 64 * 2**20
# Images and labels of both splits of Fashion-MNIST or MNIST have 55 MB, unpacked.
_NPZ_LIMIT = 256 * 2**20
# The head of an array as numpy writes it. Numpy's own reader parses it as Python, which can be made to fail in ways of
# all kinds.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': "
    rb"'\|u1', 'fortran_order': False, 'shape': \((\d{1,9},|\d{1,9}(?:, \d{1,9}){1,2})\), \} *\n",
    re.DOTALL,
)

_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_CLASSES = 10

# --- packed files ------------------------------------------------------------------------------------------


def read_file(path: Path, limit: int) -> bytes:
    """The contents of *path*, unpacked if they begin as gzip or xz do, whatever its name is.

    Raises `DamagedData` as :func:`unpack` does, and for archives of other kinds.
    """
    # Packing random bytes makes them longer, by less than a thousandth: the slack is for that.
    with path.open("rb") as file:
        data = file.read(limit + limit // 1000 + 1024)
    if kind := archive_of(data):
        raise DamagedData(f"{path} is a {kind} archive: unpack it first")
    return unpack(data, packing_of(data), limit, str(path))


def archive_of(data: bytes) -> str | None:
    """The kind of archive that *data* begins as, of those that are not read here; None for anything else."""
    return next((kind for magic, kind in _UNREAD.items() if data.startswith(magic)), None)


def packing_of(data: bytes) -> str:
    """The one of `PACKED_SUFFIXES` whose format *data* begins as; empty if it is not packed."""
    return next((suffix for suffix, magic in _MAGIC.items() if data.startswith(magic)), "")


def unpack(data: bytes, suffix: str, limit: int, name: str) -> bytes:
    """Unpack *data* by *suffix* (``.gz``, ``.xz``, anything else: not packed); *name* is for messages.

    Several streams one after the other are one file, as for gzip and xz themselves. Raises `DamagedData` for more than
    *limit* unpacked bytes and for a stream that is truncated, broken or followed by anything else.
    """
    if suffix in PACKED_SUFFIXES:
        data = _unpack_streams(data, suffix, limit, name)
    if len(data) > limit:
        raise DamagedData(f"{name} holds more than the {limit:,} bytes that such a file can have")
    return data


def _unpack_streams(data: bytes, suffix: str, limit: int, name: str) -> bytes:
    parts: list[bytes] = []
    left = limit
    while True:
        part, data = _unpack_stream(data, suffix, left, name)
        parts.append(part)
        left -= len(part)
        if not data or left < 0:
            return b"".join(parts)
        if packing_of(data) != suffix:
            raise DamagedData(f"{name} has {len(data):,} bytes after the end of its {suffix} stream")


def _unpack_stream(data: bytes, suffix: str, limit: int, name: str) -> tuple[bytes, bytes]:
    """The first stream in *data*, up to *limit* bytes and one more, and what comes after it."""
    stream = (
        zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        if suffix == ".gz"
        else lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    )
    try:
        unpacked = stream.decompress(data, limit + 1)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise DamagedData(f"{name} is not a sound {suffix} file: {error}") from error
    if len(unpacked) <= limit and not stream.eof:
        raise DamagedData(f"{name} is truncated: its {suffix} stream has no end after {len(data):,} bytes")
    return unpacked, stream.unused_data


def read_tar_members(path: Path, members: Collection[str], limit: int) -> dict[str, bytes]:
    """The contents of the named regular *members* of a packed tar, read in memory: nothing lands on disk.

    *limit* is for the whole unpacked archive. Raises `DamagedData` when a member is missing, is a link or a
    folder, or when the archive is not sound.
    """
    unpacked = read_file(path, limit)
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            return {member: _read_member(tar, member, path) for member in members}
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DamagedData(f"{path} is not a sound tar archive: {error}") from error


def _read_member(tar: tarfile.TarFile, member: str, path: Path) -> bytes:
    try:
        info = tar.getmember(member)
    except KeyError as error:
        raise DamagedData(f"{path} has no member {member!r}") from error
    # extractfile() would follow a link, and fill the holes of a sparse file up to any size it claims.
    file = tar.extractfile(info) if info.isreg() and not info.issparse() else None
    if file is None:
        raise DamagedData(f"{path}: member {member!r} is not a regular file")
    with file:
        return file.read()


# --- IDX (MNIST, Fashion-MNIST) ----------------------------------------------------------------------------


def parse_idx(data: bytes, name: str) -> _Images:
    """Parse an IDX file of unsigned bytes: 0, 0, type 0x08, rank, sizes (big-endian uint32), then values.

    Returns a writable uint8 array of the shape in the header. Raises `DamagedData` for another magic number,
    another element type, more than 32 dimensions, or when the values are fewer or more than the header says.
    """
    if len(data) < 4 or data[:3] != bytes((0, 0, _IDX_UINT8)) or data[3] == 0:
        raise DamagedData(f"{name} is not an IDX file of unsigned bytes: it starts with {data[:4].hex(' ')!r}")
    if data[3] > _IDX_MAX_DIMENSIONS:
        raise DamagedData(f"{name} has {data[3]} dimensions; at most {_IDX_MAX_DIMENSIONS} are read")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DamagedData(f"{name} is truncated: its header needs {start} bytes and there are {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    # math.prod counts without overflow, so that four sizes of 2**32 - 1 do not wrap to something legal.
    expected, actual = math.prod(shape), len(data) - start
    if actual != expected:
        wrong = "is truncated" if actual < expected else "has trailing bytes"
        raise DamagedData(f"{name} {wrong}: shape {shape} needs {expected:,} values and there are {actual:,}")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def write_idx(array: _Images) -> bytes:
    """The IDX file of a uint8 *array* of rank 1 to 32: what :func:`parse_idx` reads back."""
    if array.dtype != np.uint8 or not 1 <= array.ndim <= _IDX_MAX_DIMENSIONS:
        raise InvalidInput(
            f"IDX here means uint8 of rank 1 to {_IDX_MAX_DIMENSIONS}, not {array.dtype} of rank {array.ndim}"
        )
    magic = bytes((0, 0, _IDX_UINT8, array.ndim))
    return magic + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def read_npz_as_idx(path: Path, split: str) -> tuple[bytes, bytes]:
    """Images and labels of *split*, as IDX files, from the arrays ``x_…`` and ``y_…`` that Keras keeps in one file.

    Raises `DamagedData` for a file without them, and for arrays that are not uint8 in C order.
    """
    # From memory: a damaged archive sends zipfile to places before the start, which a file answers with an OSError as
    # if the disk were at fault, and bytes in memory with a ValueError.
    with path.open("rb") as file:
        content = io.BytesIO(file.read(_NPZ_LIMIT))
    try:
        with zipfile.ZipFile(content) as archive:
            images, labels = (_read_npy(archive, f"{letter}_{split}.npy", path) for letter in "xy")
    except KeyError as error:
        raise DamagedData(f"{path} has no images and labels for {split}: {error.args[0]}") from None
    # What zipfile raises for damaged archives, other packings and passwords differs from case to case.
    except (zipfile.BadZipFile, ValueError, EOFError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise DamagedData(f"{path} is not a sound .npz file: {error}") from None
    return write_idx(images), write_idx(labels)


def _read_npy(archive: zipfile.ZipFile, member: str, path: Path) -> _Images:
    with archive.open(member) as file:
        data = file.read(_NPY_LIMIT + 1)
    start = 10 + int.from_bytes(data[8:10], "little")
    found = _NPY_HEADER.fullmatch(data[:start])
    if found is None:
        raise DamagedData(f"{path}: {member} must be uint8 [N], or [N, H, W] in C order; it begins {data[10:90]!r}")
    shape = tuple(int(size) for size in found[1].split(b",") if size.strip())
    if math.prod(shape) != len(data) - start:
        raise DamagedData(f"{path}: {member} has the shape {shape} in {len(data) - start:,} bytes")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


# --- CIFAR-10 ----------------------------------------------------------------------------------------------


def parse_cifar_binary(data: bytes, name: str) -> tuple[_Images, _Labels]:
    """Parse a batch of the binary version: records of one label byte and 3,072 pixels (R, G, B planes).

    Returns images uint8 [N, 3, 32, 32] and labels int64 [N]. Raises `DamagedData` for a part of a record or a
    label over 9.
    """
    record = 1 + CIFAR_PIXELS
    if not data or len(data) % record:
        raise DamagedData(f"{name} has {len(data):,} bytes: not a whole number of {record}-byte CIFAR-10 records")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    return _cifar_arrays(records[:, 1:], records[:, 0].astype(np.int64), name)


def parse_cifar_pickle(data: bytes, name: str) -> tuple[_Images, _Labels]:
    """Parse an original python batch: a protocol 2 pickle of a dict with ``labels`` and a ``data`` array.

    Returns images uint8 [N, 3, 32, 32] and labels int64 [N]. The pickle is described, not loaded: see rule 3
    on top. Raises `DamagedData` for any global or opcode that original batches do not have, for data that are
    not uint8 [N, 3072], and for labels that are not N numbers from 0 to 9.
    """
    batch = describe_pickle(data, name)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DamagedData(f"{name} is a pickle without the CIFAR-10 keys 'data' and 'labels'")
    pixels = described_array(batch[b"data"], name)
    labels = batch[b"labels"]
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DamagedData(f"{name}: 'labels' is not a list of whole numbers")
    if len(labels) != len(pixels):
        raise DamagedData(f"{name} has {len(pixels)} images and {len(labels)} labels")
    return _cifar_arrays(pixels, np.array(labels, dtype=np.int64), name)


def _cifar_arrays(pixels: _Images, labels: _Labels, name: str) -> tuple[_Images, _Labels]:
    """Pixels [N, 3072] as writable images [N, 3, 32, 32], with the labels once they are known to be legal."""
    wrong = labels[(labels < 0) | (labels >= _CIFAR_CLASSES)]
    if wrong.size:
        raise DamagedData(f"{name} has label {wrong[0]}, outside 0 to {_CIFAR_CLASSES - 1}")
    return pixels.reshape(-1, *_CIFAR_SHAPE).copy(), labels


# --- a pickle, described instead of loaded ------------------------------------------------------------------
