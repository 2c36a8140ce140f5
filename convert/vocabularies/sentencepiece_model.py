"""The fields of a SentencePiece ModelProto that the sentencepiece package does not give access to.

Comes in: the bytes of a tokenizer.model. Goes out: the model's type, its types of pieces, and whether it puts a space
in front of a text. Source: sentencepiece_model.proto, and the wire format of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Field numbers of ModelProto and of its parts.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TYPE, _MODEL_TYPE, _ADD_DUMMY_PREFIX = 3, 3, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
# A varint of 64 bits fills at most ten bytes of seven bits.
_MAX_VARINT_BYTES = 10


@dataclass
class ModelFacts:
    """`model_type` is a key of MODEL_TYPES if the file is sound; `piece_types` has one number per piece (1: normal)."""

    model_type: int = 1
    add_dummy_prefix: bool = True
    piece_types: list[int] = field(default_factory=list)


def read_model_facts(data: bytes) -> ModelFacts:
    """Reads a serialized ModelProto. Raises ValueError where the bytes are not Protocol Buffers."""
    facts = ModelFacts()
    for number, value in _fields(data):
        if number == _PIECES:
            facts.piece_types.append(_number(value, _PIECE_TYPE, 1))
        elif number == _TRAINER:
            facts.model_type = _number(value, _MODEL_TYPE, facts.model_type)
        elif number == _NORMALIZER:
            facts.add_dummy_prefix = bool(_number(value, _ADD_DUMMY_PREFIX, int(facts.add_dummy_prefix)))
    return facts


def _number(message: int | bytes, number: int, default: int) -> int:
    """The last value of this field, as the wire format has it; `default` if there is none."""
    if isinstance(message, int):
        raise ValueError(f"found the number {message}, expected a message")
    for found, value in _fields(message):
        if found == number:
            if not isinstance(value, int):
                raise ValueError(f"field {number} is {len(value)} bytes, expected a number")
            default = value
    return default


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value): a number for varints, the bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise ValueError(f"field {number} has wire type {wire}, expected one of 0, 1, 2, 5")
        if size > len(data) - at:
            raise ValueError(f"field {number} has {size} bytes, but {len(data) - at} are left")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, lowest seven bits first, and the place after it."""
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        if at + i >= len(data):
            raise ValueError(f"a number is cut off at byte {at}")
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(f"the number at byte {at} is longer than {_MAX_VARINT_BYTES} bytes")
