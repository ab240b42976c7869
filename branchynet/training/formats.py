"""Readers of the file formats that data sets come in. Bytes in, arrays out; nothing here decides where from.

Three rules hold for every reader in this file:

1. No length written in a file is trusted: it is compared with the bytes that are there.
2. Unpacking stops at a limit of ours, whatever the packed file promises.
3. A pickle is never loaded. CIFAR-10 comes as pickles, so :func:`parse_cifar_pickle` lists the opcodes with
   :mod:`pickletools` and keeps what they *would* build as plain values; nothing that a file names is called.

What breaks a rule raises :class:`~branchynet.errors.DamagedData` with the name of the file and the values.
"""

from __future__ import annotations

import io
import lzma
import math
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from branchynet.errors import DamagedData, InvalidInput

__all__ = [
    "PACKED_SUFFIXES",
    "parse_cifar_binary",
    "parse_cifar_pickle",
    "parse_idx",
    "read_file",
    "read_tar_members",
    "unpack",
    "write_idx",
]

PACKED_SUFFIXES = (".gz", ".xz")

_Images = npt.NDArray[np.uint8]
_Labels = npt.NDArray[np.int64]

# A dictionary of 64 MiB (xz -9) needs 65 MiB to unpack; a header may ask for 4 GiB.
_XZ_MEMORY = 96 * 2**20

_IDX_UINT8 = 0x08
_IDX_MAX_DIMENSIONS = 255

_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_PIXELS = 3 * 32 * 32
_CIFAR_CLASSES = 10

# An original batch has 30,083 opcodes and at most 31,035,999 bytes.
_PICKLE_OPCODES = 1_000_000


# --- packed files ------------------------------------------------------------------------------------------


def read_file(path: Path, limit: int) -> bytes:
    """The contents of *path*, unpacked when its name ends in ``.gz`` or ``.xz``.

    Raises `DamagedData` as :func:`unpack` does.
    """
    # Packing random bytes makes them longer, by less than a thousandth: the slack is for that.
    with path.open("rb") as file:
        data = file.read(limit + limit // 1000 + 1024)
    return unpack(data, path.suffix, limit, str(path))


def unpack(data: bytes, suffix: str, limit: int, name: str) -> bytes:
    """Unpack *data* by *suffix* (``.gz``, ``.xz``, anything else: not packed); *name* is for messages.

    Raises `DamagedData` for more than *limit* unpacked bytes and for a stream that is truncated, broken or
    followed by anything.
    """
    if suffix in PACKED_SUFFIXES:
        data = _unpack_stream(data, suffix, limit, name)
    if len(data) > limit:
        raise DamagedData(f"{name} holds more than the {limit:,} bytes that such a file can have")
    return data


def _unpack_stream(data: bytes, suffix: str, limit: int, name: str) -> bytes:
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
    if stream.unused_data:
        raise DamagedData(f"{name} has {len(stream.unused_data):,} bytes after the end of its {suffix} stream")
    return unpacked


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
    another element type, or when the values are fewer or more than the header says.
    """
    if len(data) < 4 or data[:3] != bytes((0, 0, _IDX_UINT8)) or data[3] == 0:
        raise DamagedData(f"{name} is not an IDX file of unsigned bytes: it starts with {data[:4].hex(' ')!r}")
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
    """The IDX file of a uint8 *array* of rank 1 to 255: what :func:`parse_idx` reads back."""
    if array.dtype != np.uint8 or not 1 <= array.ndim <= _IDX_MAX_DIMENSIONS:
        raise InvalidInput(f"IDX here means uint8 of rank 1 to 255, not {array.dtype} of rank {array.ndim}")
    magic = bytes((0, 0, _IDX_UINT8, array.ndim))
    return magic + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


# --- CIFAR-10 ----------------------------------------------------------------------------------------------


def parse_cifar_binary(data: bytes, name: str) -> tuple[_Images, _Labels]:
    """Parse a batch of the binary version: records of one label byte and 3,072 pixels (R, G, B planes).

    Returns images uint8 [N, 3, 32, 32] and labels int64 [N]. Raises `DamagedData` for a part of a record or a
    label over 9.
    """
    record = 1 + _CIFAR_PIXELS
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
    batch = _describe_pickle(data, name)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DamagedData(f"{name} is a pickle without the CIFAR-10 keys 'data' and 'labels'")
    pixels = _described_array(batch[b"data"], name)
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

_GLOBALS = ("numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype")

# All opcodes of the original batches, but for the ones that act on the stack (see `_Describer`).
_FRESH: dict[str, Callable[[], object]] = {
    "NONE": type(None),
    "NEWFALSE": bool,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_NUMBERS = ("BININT", "BININT1", "BININT2")
_STRINGS = ("BINSTRING", "SHORT_BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Python 2 numbers each value in case it comes again. In these files none does (no opcode fetches one), so
# there is nothing to remember.
_IGNORED = ("PROTO", "BINPUT", "LONG_BINPUT")


@dataclass(eq=False)
class _Described:
    """What a pickle asks to have made: which global, called with what, then given which state."""

    name: str
    arguments: object = None
    state: object = None


class _Describer:
    """A stack machine for the opcodes of an original CIFAR-10 batch. It builds values and calls nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []

    def step(self, opcode: str, value: Any) -> None:
        """Do what *opcode* with its argument *value* says; ValueError if no original batch has it."""
        if opcode in _FRESH:
            self.stack.append(_FRESH[opcode]())
        elif opcode in _NUMBERS:
            self.stack.append(value)
        elif opcode in _STRINGS:
            # pickletools shows the bytes of a Python 2 string as Latin-1 text; this is the way back.
            self.stack.append(value.encode("latin-1"))
        elif opcode in _TUPLES:
            self.stack[-_TUPLES[opcode] :] = [tuple(self.stack[-_TUPLES[opcode] :])]
        elif opcode == "GLOBAL":
            self.name_global(value)
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self)
        elif opcode not in _IGNORED:
            raise ValueError(f"it has the opcode {opcode}, which no original batch has")

    def name_global(self, name: str) -> None:
        """GLOBAL: only its name is kept."""
        if name not in _GLOBALS:
            raise ValueError(f"it names the global {name.replace(' ', '.')!r}, which no original batch needs")
        self.stack.append(_Described(name))

    def mark(self) -> None:
        """MARK: remember how high the stack is."""
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append_all(self) -> None:
        """APPENDS: what is above the mark goes into the list below it."""
        items = self.since_mark()
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self) -> None:
        """SETITEMS: what is above the mark goes into the dict below it, as keys and values in turn."""
        items = self.since_mark()
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, bytes) for key in items[::2]):
            raise ValueError("it has a key that is not text, or sets items of something that is not a dict")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def tuple_all(self) -> None:
        """TUPLE: what is above the mark becomes one tuple."""
        self.stack.append(tuple(self.since_mark()))

    def reduce(self) -> None:
        """REDUCE would call a global with arguments; here both are noted."""
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Described):
            raise ValueError("it calls something that is not a global")
        self.stack.append(_Described(called.name, arguments))

    def build(self) -> None:
        """BUILD would set the state of an object; here it is noted."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Described):
            raise ValueError("it sets the state of something that is not an object")
        self.stack[-1].state = state


_ACTIONS: dict[str, Callable[[_Describer], None]] = {
    "MARK": _Describer.mark,
    "APPENDS": _Describer.append_all,
    "SETITEMS": _Describer.set_items,
    "TUPLE": _Describer.tuple_all,
    "REDUCE": _Describer.reduce,
    "BUILD": _Describer.build,
}


def _describe_pickle(data: bytes, name: str) -> object:
    """The value a pickle stands for, with everything it asks to have made left as a `_Described`."""
    stream, machine = io.BytesIO(data), _Describer()
    try:
        for count, (opcode, value, _) in enumerate(pickletools.genops(stream), start=1):
            if count > _PICKLE_OPCODES:
                raise ValueError(f"it has more than {_PICKLE_OPCODES:,} opcodes")
            if opcode.name != "STOP":
                machine.step(opcode.name, value)
        (result,) = machine.stack
    except (ValueError, IndexError) as error:
        raise DamagedData(f"{name} is not an original CIFAR-10 batch: {error}") from error
    if stream.tell() != len(data):
        raise DamagedData(f"{name} has {len(data) - stream.tell():,} bytes after the end of its pickle")
    return result


def _described_array(array: object, name: str) -> _Images:
    """The uint8 array [N, 3072] that *array* describes, made from its bytes alone."""
    match array:
        case _Described(
            name="numpy.core.multiarray _reconstruct",
            arguments=(_Described(name="numpy ndarray"), *_),
            state=(
                int(),
                (int(rows), int(columns)),
                _Described(name="numpy dtype", arguments=(bytes(kind), *_)),
                False,  # not in Fortran order
                bytes(values),
            ),
        ):
            pass
        case _:
            raise DamagedData(f"{name}: 'data' is not a plain numpy array of rank 2 in C order")
    if kind != b"u1" or columns != _CIFAR_PIXELS or rows < 1 or len(values) != rows * columns:
        raise DamagedData(
            f"{name}: 'data' must be u1 of shape (N, {_CIFAR_PIXELS}), not {kind[:16]!r} of shape "
            f"({rows}, {columns}) in {len(values):,} bytes"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(rows, columns)
