"""The messages between Python and the worker program: C structures, little-endian, without padding.

Comes in: the fields of catalog rows, of an attention and of a delta net, from interface.py. Goes out: the messages,
which pack and unpack themselves, and the text of protocol.h for the C files.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from ..activations import ARRAYS
from ..interface import (
    ATTENTION,
    ATTENTION_KERNEL,
    ATTENTION_PLAN,
    CACHE,
    CONVOLUTION,
    DELTA_NET,
    DELTA_NET_KERNEL,
    KERNEL,
    ROTATION,
    ROTATION_KERNEL,
    Struct,
)

NAME_BYTES, ERROR_BYTES = 64, 200
MOST_TOKENS, MOST_PARTS = 256, 64
_DELTA_NETS = ("list_delta_nets", "select_delta_net", "update", "convolve")
_ATTENTION = ("list_attention", "select_attention", "plan_attention", "attend")
_ROTATIONS = ("list_rotations", "select_rotation", "rotate")
OPERATIONS = ("list", "select", "run", *_ATTENTION, *_DELTA_NETS, *_ROTATIONS)
_CODES = {"uint32_t": "I", "int64_t": "q", "float": "f", f"char[{NAME_BYTES}]": f"{NAME_BYTES}s"}


@dataclass(frozen=True)
class Message:
    """A structure of the protocol: `fields` are (C type, name), ordered so that C adds no padding."""

    name: str
    fields: tuple[tuple[str, str], ...]

    @property
    def code(self) -> str:
        return "<" + "".join(_CODES[c_type] for c_type, _ in self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.fields)

    @property
    def size(self) -> int:
        return struct.calcsize(self.code)

    def pack(self, *values) -> bytes:
        return struct.pack(self.code, *values)

    def pack_named(self, values: Mapping[str, float]) -> bytes:
        return self.pack(*(values[name] for name in self.names))

    def unpack(self, data: bytes) -> SimpleNamespace:
        return SimpleNamespace(**dict(zip(self.names, struct.unpack(self.code, data))))

    @property
    def text(self) -> str:
        """The C declaration, and an assertion that C adds no padding."""
        lines = []
        for c_type, name in self.fields:
            base, _, count = c_type.partition("[")
            lines.append(f"    {base} {name}{f'[{count}' if count else ''};")
        declared = "\n".join([f"struct {self.name} {{", *lines, "};"])
        return f'{declared}\n_Static_assert(sizeof(struct {self.name}) == {self.size}, "padding");'


def _numbers(struct: Struct, is_float: bool = False) -> tuple[str, ...]:
    """The fields of a structure of the interface that are whole numbers, or floats."""
    return tuple(field.name for field in struct.fields if field.is_number and (field.c_type == "float") == is_float)


_NAME = (f"char[{NAME_BYTES}]", "name")
# A row of the catalog. `gemm`: whether the kernel is one.
ROW = Message("row", (_NAME, *(("uint32_t", name) for name in (*_numbers(KERNEL), "gemm"))))
HEAD = Message("head", (("uint32_t", "rows"), ("uint32_t", "cpu_features")))
# A request to select a kernel. The forced name follows, `forced_size` bytes, then `crossings` numbers of tokens, a byte
# each.
SELECTION = Message(
    "selection",
    (
        ("uint32_t", "type_id"),
        ("uint32_t", "precision"),
        ("uint32_t", "cpu_features"),
        ("uint32_t", "forced_size"),
        ("int64_t", "tokens"),
        ("uint32_t", "crossings"),
        ("uint32_t", "unused"),
    ),
)
# A request to run a kernel. There follow the parts, the sizes of all arrays, and the arrays: the weights, then for each
# token x, the arrays of its activations, and y. If x is empty, the activations are already prepared. If there are no
# weights, nothing is multiplied.
RUN = Message(
    "run",
    (
        ("uint32_t", "kernel"),
        ("uint32_t", "input"),
        ("uint32_t", "parts"),
        ("uint32_t", "tokens"),
        ("float", "scale"),
        ("uint32_t", "unused"),
        ("int64_t", "rows"),
        ("int64_t", "cols"),
    ),
)
# `offset`: of an array's first byte in its 64-byte line.
SIZE = Message("size", (("int64_t", "size"), ("int64_t", "offset")))
# A row of the catalog of attention kernels.
ATTENTION_ROW = Message("attention_row", (_NAME, *(("uint32_t", name) for name in _numbers(ATTENTION_KERNEL))))
# A request to select one, or one of delta nets. The forced name follows.
KERNEL_CHOICE = Message("kernel_choice", (("uint32_t", "cpu_features"), ("uint32_t", "forced_size")))
# K or V.
CACHED = Message("cached", tuple(("int64_t", name) for name in _numbers(CACHE)))
# A request to plan or to compute an attention. There follow K and V, then to compute it the sizes of all arrays and the
# arrays: q, K, V, mask, sinks. Where there is no mask or no sinks the array is empty.
ATTENDING = Message(
    "attending",
    (
        *(("int64_t", name) for name in _numbers(ATTENTION)),
        ("int64_t", "threads"),
        *(("float", name) for name in _numbers(ATTENTION, is_float=True)),
        ("uint32_t", "kernel"),
    ),
)
ATTENTION_ARRAYS = 5
PLANNED = Message("planned", tuple(("int64_t", name) for name in _numbers(ATTENTION_PLAN)))
# A row of the catalog of kernels of delta nets.
DELTA_NET_ROW = Message("delta_net_row", (_NAME, *(("uint32_t", name) for name in _numbers(DELTA_NET_KERNEL))))
# A request to compute a delta net. There follow the sizes of all arrays and the arrays: q, k, v, gates, betas, states.
# The answer is the result, then the snapshots of the states, each of `state_bytes`.
UPDATING = Message(
    "updating",
    (
        *(("int64_t", name) for name in _numbers(DELTA_NET)),
        ("int64_t", "state_bytes"),
        ("int64_t", "threads"),
        ("int64_t", "is_in_place"),
        *(("float", name) for name in _numbers(DELTA_NET, is_float=True)),
        ("uint32_t", "kernel"),
    ),
)
DELTA_NET_ARRAYS = 6
# A request to compute a convolution. There follow the sizes and the arrays: inputs before, x, weights. The answer is
# `window_bytes` of windows, then `out_bytes` of results.
CONVOLVING = Message(
    "convolving",
    tuple(
        ("int64_t", name)
        for name in (*_numbers(CONVOLUTION), "blocks", "window_bytes", "out_bytes", "threads", "kernel")
    ),
)
CONVOLUTION_ARRAYS = 3
# A row of the catalog of rotation kernels, and a request to select one.
ROTATION_ROW = Message("rotation_row", (_NAME, *(("uint32_t", name) for name in _numbers(ROTATION_KERNEL))))
ROTATION_SELECTION = Message("rotation_selection", (("uint32_t", "cpu_features"),))
# A request to rotate rows, or to rotate them back. There follow the sizes of the signs, which may be none, and of the
# rows, then these arrays.
ROTATING = Message(
    "rotating",
    (
        *(("int64_t", name) for name in (*_numbers(ROTATION), "rows")),
        *(("float", name) for name in _numbers(ROTATION, is_float=True)),
        *(("uint32_t", name) for name in ("kernel", "is_back", "unused")),
    ),
)
# The work of one thread.
PART = Message("part", tuple(("int64_t", name) for name in ("first_block", "last_block", "first_tile", "last_tile")))

MESSAGES = (
    ROW,
    HEAD,
    SELECTION,
    RUN,
    SIZE,
    PART,
    ATTENTION_ROW,
    KERNEL_CHOICE,
    CACHED,
    ATTENDING,
    PLANNED,
    ROTATION_ROW,
    ROTATION_SELECTION,
    ROTATING,
    DELTA_NET_ROW,
    UPDATING,
    CONVOLVING,
)


def operation(name: str) -> bytes:
    """The first bytes of a request."""
    return struct.pack("<I", OPERATIONS.index(name))


def text_of(field: bytes) -> str:
    """The text of a field of characters."""
    return field.split(b"\0", 1)[0].decode()


def _copied(macro: str, names: tuple[str, ...], cast: str = "") -> str:
    """A C macro: the initializer of a structure from fields of the same names of another one."""
    return f"#define {macro}(from) {{ {', '.join(f'.{name} = {cast}(from)->{name}' for name in names)} }}"


def header() -> str:
    """The text of protocol.h."""
    numbers = {
        "NAME_BYTES": NAME_BYTES,
        "ERROR_BYTES": ERROR_BYTES,
        "MOST_TOKENS": MOST_TOKENS,
        "MOST_PARTS": MOST_PARTS,
        # The fields of struct tmac_activations.
        "ACTIVATION_ARRAYS": len(ARRAYS),
        "ATTENTION_ARRAYS": ATTENTION_ARRAYS,
        "DELTA_NET_ARRAYS": DELTA_NET_ARRAYS,
        "CONVOLUTION_ARRAYS": CONVOLUTION_ARRAYS,
    }
    lines = [
        "// Generated by tmac.kernels.worker from protocol.py; edits are lost.",
        "#pragma once",
        "",
        "#include <stdint.h>",
        "",
        f"enum operation {{ {', '.join(map(str.upper, OPERATIONS))} }};",
        f"enum {{ {', '.join(f'{name} = {value}' for name, value in numbers.items())} }};",
        _copied("ROW_OF", _numbers(KERNEL), "(uint32_t) "),
        _copied("ATTENTION_ROW_OF", _numbers(ATTENTION_KERNEL), "(uint32_t) "),
        _copied("CACHE_OF", _numbers(CACHE)),
        _copied("ATTENTION_OF", (*_numbers(ATTENTION), *_numbers(ATTENTION, is_float=True))),
        _copied("ROTATION_ROW_OF", _numbers(ROTATION_KERNEL), "(uint32_t) "),
        _copied("ROTATION_OF", (*_numbers(ROTATION), *_numbers(ROTATION, is_float=True))),
        _copied("PLANNED_OF", _numbers(ATTENTION_PLAN), "(int64_t) "),
        _copied("DELTA_NET_ROW_OF", _numbers(DELTA_NET_KERNEL), "(uint32_t) "),
        _copied("DELTA_NET_OF", (*_numbers(DELTA_NET), *_numbers(DELTA_NET, is_float=True))),
        _copied("CONVOLUTION_OF", _numbers(CONVOLUTION)),
        *(message.text for message in MESSAGES),
        "",
    ]
    return "\n".join(lines)
