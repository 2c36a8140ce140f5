"""Damage to the bytes of a file that keeps enough of its structure to get past the first check.

In: the bytes of a valid file, its kind, a random generator. Out: other bytes. JSON is changed as a value (and now and
then as text), safetensors in header and data, GGUF and Protocol Buffers at numbers and lengths.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

# Values that a reader might not expect under a key, or as an element.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        16,
        32,
        48,
        64,
        128,
        255,
        1000,
        65536,
        2**31 - 1,
        2**31,
        2**40,
        2**63,
    ),
    *(2**64, -(2**70), 10**4000, 0.0, 1.5, -0.5, 1e-320, 1e308, float("inf"), float("nan"), "", "x", " ", "0", "model"),
    *(
        "\u2581",
        "\ud800",
        "\x1b[2J\n",
        "a" * 5000,
        "(a*)*b",
        "re:.*",
        "[",
        "none",
        "gptq",
        "BPE",
        "Sequence",
        "default",
    ),
    *(
        [],
        [7],
        [[]],
        [None],
        [2**62] * 40,
        ["x", "y"],
        {},
        {"x": 1},
        {"type": "Sequence"},
        {"bits": 3},
        {"type": ["x"]},
    ),
)
NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1 << 15, 1 << 16, 1 << 31, (1 << 32) - 1)
LARGE = (*NUMBERS, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
Random = random.Random


def mutate(data: bytes, name: str, rng: Random) -> bytes:
    """Damage that suits the kind of file that `name` says."""
    if rng.random() < 0.1:
        return mutate_bytes(data, rng)
    if name.endswith((".json", ".jinja")):
        return mutate_json(data, rng)
    if name.endswith(".safetensors"):
        return mutate_safetensors(data, rng)
    return mutate_numbers(data, rng) if rng.random() < 0.6 else mutate_bytes(data, rng)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """A few bytes changed, a piece left out, doubled or moved, or the end cut off."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed)) if changed else 0
        length = min(rng.choice((1, 2, 4, 8, 32, 200)), len(changed) - at)
        kind = rng.randrange(6)
        if kind <= 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + length] = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(length))
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def mutate_numbers(data: bytes, rng: Random) -> bytes:
    """Little-endian numbers of 1 to 8 bytes replaced, mostly in the first part: headers, counts, lengths, offsets."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        size = rng.choice((1, 2, 4, 4, 8, 8))
        end = min(len(changed), rng.choice((64, 1024, len(changed)))) - size
        if end <= 0:
            return mutate_bytes(data, rng)
        at = rng.randrange(end + 1)
        found = int.from_bytes(changed[at : at + size], "little")
        wanted = rng.choice((found + rng.choice((-64, -32, -1, 1, 2, 32, 64)), found * 2, rng.choice(LARGE)))
        changed[at : at + size] = (wanted % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(changed)


def mutate_json(data: bytes, rng: Random) -> bytes:
    """One to three places of the value changed; rarely what only a text can have: long numbers, a key twice, depth."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng)
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        text = '{"x": 1}'
    chance = rng.random()
    if chance < 0.02:
        text = text.replace("1", "9" * 5000, 1)
    elif chance < 0.04:
        text = text.replace(":", ":" + "[" * rng.choice((90, 110, 2000)), 1)
    elif chance < 0.06 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: Random) -> Any:
    """The value with a change at a random depth."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.12:
        return _other(value, rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    kind = rng.random()
    if kind < 0.7:
        value[key] = _changed(value[key], rng)
    elif kind < 0.78:
        del value[key]
    elif kind < 0.86:
        other = rng.choice(keys)
        value[key], value[other] = value[other], value[key]
    elif isinstance(value, dict):
        text = _other(key, rng)
        value[text if isinstance(text, str) else rng.choice(("x", f"{key}.x", "type", "rope_scaling"))] = value[key]
    else:
        value.insert(key, rng.choice((value[rng.choice(keys)], _value(rng))))
    return value


def _value(rng: Random) -> Any:
    """One of VALUES; a copy, because it may be changed in its turn."""
    return copy.deepcopy(rng.choice(VALUES))


def _other(value: Any, rng: Random) -> Any:
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-64, -2, -1, 1, 2, 32)) if rng.random() < 0.7 else value * 2
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", "x", value, ".", "\u2581", " ")) + value[at + 1 :]
    return _value(rng)


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """The header as JSON, with its length made right again; or its length; or the tensors' bytes."""
    if len(data) < 8:
        return mutate_bytes(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = data[8 : 8 + length], data[8 + length :]
    kind = rng.random()
    if kind < 0.6:
        header = mutate_json(header, rng)
        return struct.pack("<Q", len(header)) + header + tensors
    if kind < 0.65:
        return struct.pack("<Q", rng.choice(LARGE)) + data[8:]
    change: Callable[[bytes, Random], bytes] = mutate_numbers if rng.random() < 0.5 else _same_length
    return data[: 8 + length] + change(tensors, rng)[: len(tensors)].ljust(len(tensors), b"\0")


def _same_length(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    value = rng.choice((0, 127, 255, rng.randrange(256)))
    for _ in range(rng.choice((1, 8, 200)) if changed else 0):
        changed[rng.randrange(len(changed))] = value
    return bytes(changed)
