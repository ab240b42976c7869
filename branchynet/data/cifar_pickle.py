"""What the pickle of an original CIFAR-10 batch would build, described and never loaded: rule 3 of `formats`."""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from branchynet.errors import DamagedData

__all__ = ["CIFAR_PIXELS", "describe_pickle", "described_array"]

CIFAR_PIXELS = 3 * 32 * 32


# An original batch has 30,083 opcodes and at most 31,035,999 bytes.
_PICKLE_OPCODES = 1_000_000


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


def describe_pickle(data: bytes, name: str) -> object:
    """The value a pickle stands for, with everything it asks to have made left as a `_Described`."""
    stream, machine = io.BytesIO(data), _Describer()
    try:
        # pickletools warns of escapes that Python no longer takes, which no original batch has.
        with warnings.catch_warnings(action="error"):
            for count, (opcode, value, _) in enumerate(pickletools.genops(stream), start=1):
                if count > _PICKLE_OPCODES:
                    raise ValueError(f"it has more than {_PICKLE_OPCODES:,} opcodes")
                if opcode.name != "STOP":
                    machine.step(opcode.name, value)
        (result,) = machine.stack
    except (ValueError, IndexError, Warning) as error:
        raise DamagedData(f"{name} is not an original CIFAR-10 batch: {error}") from error
    if stream.tell() != len(data):
        raise DamagedData(f"{name} has {len(data) - stream.tell():,} bytes after the end of its pickle")
    return result


def described_array(array: object, name: str) -> npt.NDArray[np.uint8]:
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
    if kind != b"u1" or columns != CIFAR_PIXELS or rows < 1 or len(values) != rows * columns:
        raise DamagedData(
            f"{name}: 'data' must be u1 of shape (N, {CIFAR_PIXELS}), not {kind[:16]!r} of shape "
            f"({rows}, {columns}) in {len(values):,} bytes"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(rows, columns)
