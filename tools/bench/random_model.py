"""A model of a known shape with random weights of any type: its text is noise, its speed is that of a real model.

Comes in: a shape, a number of layers, a weight type. Goes out: a GGUF file in the work folder, kept for the next time.
Tensors are written as blocks of random bytes with small finite scales, one after another; nothing is quantized. The
same recipe makes the same bytes on every machine. A text becomes its bytes, and what is generated is noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeAlias

import gguf
import numpy as np
from gguf import TokenType

from tmac.common import console
from tmac.common import format as tmac_format
from tmac.common.format import FILE_TYPE, TILE_ROWS, TYPES, TmacType
from tmac.common.paths import work_folder
from tmac.common.stock import STOCK_TYPES_BY_ID
from tmac.convert.architectures.llama import LlamaArchitecture
from tmac.convert.architectures.part import Kind
from tmac.convert.write.container import Written, write_gguf
from tmac.convert.write.tensors import OutputTensor

from ..errors import ToolError
from .hybrid import HybridArchitecture
from .shapes import Shape
from .stock_types import BENCH_TYPES, REPACKED_SUFFIX, UNPACKED_SUFFIX, BenchType

# To be increased with any change of the bytes that a recipe gives; files of other versions are deleted.
GENERATOR_VERSION = 2
# What benchmarks take: small, so that only the layers count, with a token for each byte.
DEFAULT_VOCABULARY = 1024
ENDS = BENCH_TYPES["q8_0"]
FLOAT_ID, FLOAT_BYTES = 0, 4
# Scales of T-MAC types are 2**-7 to 2**-6, as is the one scale of a tensor-scale type.
SCALE_EXPONENT = -7
# Those of blocks of which groups have levels, and the largest level.
LEVELS_EXPONENT, MOST_LEVEL = -13, 63
FP16_BIAS = 15

AnyType: TypeAlias = TmacType | BenchType


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of a model, besides GENERATOR_VERSION."""

    shape: Shape
    layers: int
    vocabulary: int
    type: AnyType
    seed: int

    @property
    def path(self) -> Path:
        """Where the model is kept."""
        sizes = f"{self.shape.name}-{self.layers}layers-vocabulary{self.vocabulary}"
        version = f"seed{self.seed}-generator{GENERATOR_VERSION}"
        return folder() / f"{sizes}-{_stored_name(self.type)}-{version}.gguf"


@dataclass(frozen=True)
class RandomModel:
    """A file, the bytes of all its tensors, and the bytes that each token reads: all but the embedding."""

    path: Path
    nbytes: int
    nbytes_per_token: int


def parse_any_type(name: str) -> AnyType:
    """A T-MAC type by its name, or one of llama.cpp's in any case; that with REPACKED_SUFFIX is repacked by T-MAC, that
    with UNPACKED_SUFFIX by nobody.

    Raises ToolError.
    """
    own, mark, rest = name.lower().partition("@")
    stock, suffix = BENCH_TYPES.get(own), mark + rest
    if stock and (suffix in ("", UNPACKED_SUFFIX) or (suffix == REPACKED_SUFFIX and stock.id in STOCK_TYPES_BY_ID)):
        return stock.repacked_by(suffix)
    if stock and suffix == REPACKED_SUFFIX:
        repackable = ", ".join(kind.name for kind in STOCK_TYPES_BY_ID.values() if kind.name in BENCH_TYPES)
        raise ToolError(
            f"{name!r}: T-MAC does not repack weights of {stock.name}",
            f"{own} is computed by llama.cpp; what T-MAC repacks, with {REPACKED_SUFFIX} behind it: {repackable}",
        )
    with suppress(ValueError):
        return tmac_format.parse_type(name.lower())
    tmac = ", ".join(kind.name for kind in TYPES)
    raise ToolError(
        f"{name!r} is no weight type",
        f"T-MAC: {tmac}; llama.cpp: {', '.join(BENCH_TYPES)}, or with {REPACKED_SUFFIX} or {UNPACKED_SUFFIX} behind it",
    )


def is_ours(kind: AnyType) -> bool:
    """Whether T-MAC's kernels compute such weights."""
    return isinstance(kind, TmacType) or kind.suffix == REPACKED_SUFFIX


def _stored_name(kind: AnyType) -> str:
    return (kind.name if isinstance(kind, TmacType) else kind.stored_name).lower()


def bits_per_weight(kind: AnyType) -> float:
    return 8 * kind.block_bytes / kind.block_weights


def fits(kind: AnyType, rows: int, columns: int) -> bool:
    """Whether a matrix can have this type: whole blocks of columns, and for T-MAC's types whole tiles of rows."""
    return columns % kind.block_weights == 0 and (not is_ours(kind) or rows % TILE_ROWS == 0)


def check(shape: Shape, kind: AnyType) -> None:
    """Raises ToolError if a matrix of the shape cannot have the type; the hint lists the types that all can have."""
    for rows, columns in shape.matrices:
        if not fits(kind, rows, columns):
            needs = f"columns in multiples of {kind.block_weights}"
            needs += "" if not is_ours(kind) else f" and rows of {TILE_ROWS}"
            fitting = [
                other.name.lower()
                for other in (*TYPES, *BENCH_TYPES.values())
                if all(fits(other, *matrix) for matrix in shape.matrices)
            ]
            raise ToolError(
                f"{shape.name} has a matrix of {rows} x {columns}, but {kind.name} needs {needs}",
                f"types that fit this shape: {', '.join(fitting)}",
            )


def folder() -> Path:
    """Where all models are kept."""
    return work_folder() / "models" / "random"


def check_space(recipes: Sequence[Recipe]) -> None:
    """Deletes models of other versions of tmac. Raises ToolError if the disk has no room for those that are missing."""
    folder().mkdir(parents=True, exist_ok=True)
    for path in folder().glob("*-generator*.gguf"):
        if not path.stem.endswith(f"-generator{GENERATOR_VERSION}"):
            path.unlink()
            console.log(f"deleted {path}, of another version of tmac")
    needed = sum(_described(recipe).nbytes for recipe in recipes if not recipe.path.is_file())
    free = shutil.disk_usage(folder()).free
    if free < needed:
        found = f"{folder()}: the models need {needed / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB free"
        raise ToolError(found, "give less: --layers, --types; or set TMAC_HOME to a folder on another disk")


def ensure(recipes: Sequence[Recipe]) -> list[RandomModel]:
    """The models' files, made unless they are there. Raises ConvertError for what stands in the way."""
    for recipe in recipes:
        if not recipe.path.is_file():
            console.log(f"writing {recipe.path}")
            recipe.path.parent.mkdir(parents=True, exist_ok=True)
            write(recipe, recipe.path)
    return [_described(recipe) for recipe in recipes]


def write(recipe: Recipe, output: Path) -> Written:
    """Writes the model's file. Raises ConvertError."""
    architecture = _architecture(recipe)

    def add_metadata(writer: gguf.GGUFWriter) -> None:
        architecture.add_metadata(writer)
        _add_vocabulary(writer, recipe.vocabulary)

    return write_gguf(
        output,
        architecture.name,
        add_metadata,
        list(tensors(recipe)),
        source=f"random bytes, seed {recipe.seed}",
        file_type=FILE_TYPE if isinstance(recipe.type, TmacType) else None,
    )


def _add_vocabulary(writer: gguf.GGUFWriter, count: int) -> None:
    """SentencePiece's three controls, a token for each byte, then numbers that no text is. A vocabulary without room
    for these has no texts: benchmarks take such a model, a server does not.
    """
    bytes_as_texts = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = ["<unk>", "<s>", "</s>", *bytes_as_texts]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * len(bytes_as_texts)
    rest = count - len(texts)
    if rest < 0:
        writer.add_tokenizer_model("no_vocab")
        return
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts + [f"<{number}>" for number in range(len(texts), count)])
    writer.add_token_types(kinds + [TokenType.NORMAL] * rest)
    writer.add_token_scores([0.0] * count)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def tensors(recipe: Recipe) -> Iterator[OutputTensor]:
    """The tensors of the file, not made yet. The seed of each is its place among them."""
    kinds = {Kind.EMBEDDING: ENDS, Kind.HEAD: ENDS, Kind.OTHER: ENDS, Kind.LINEAR: recipe.type}
    architecture = _architecture(recipe)
    for index, part in enumerate(architecture.parts()):
        if part.kind is Kind.NORM:
            yield _floats(f"{part.target}.weight", np.ones(part.shape, "<f4"))
            continue
        kind, (rows, columns) = kinds[part.kind], part.shape
        nbytes = rows * columns // kind.block_weights * kind.block_bytes
        load = partial(random_matrix, kind, rows, columns, (recipe.seed, index))
        yield OutputTensor(f"{part.target}.weight", part.shape, kind.id, kind.name, nbytes, load)
        if isinstance(kind, TmacType) and not kind.group:
            yield _floats(f"{part.target}.scale", np.full(1, 2.0**SCALE_EXPONENT, "<f4"))
    for name, values in architecture.constants().items():
        yield _floats(name, values)


def random_matrix(kind: AnyType, rows: int, columns: int, seed: tuple[int, ...]) -> np.ndarray:
    """The bytes of one matrix, uint8 [rows * columns / block weights * block bytes]: random, but for finite scales."""
    blocks = rows * columns // kind.block_weights
    data = _random_bytes(blocks * kind.block_bytes, seed)
    if isinstance(kind, BenchType):
        for at in kind.scales_at:
            _make_scales(data.reshape(blocks, kind.block_bytes)[:, at + 1], kind.scale_exponent)
    elif kind.group:
        _limit(kind, data[blocks * kind.code_bytes :], blocks)
    return data


def _limit(kind: TmacType, rest: np.ndarray, blocks: int) -> None:
    """Changes what follows the planes in place: numbers are finite and small, others stay within their range."""
    if kind.has_levels:
        tiles = rest.reshape(-1, TILE_ROWS * kind.scale_bytes)
        halves, levels = np.split(tiles, [2 * TILE_ROWS * (1 + kind.has_minima)], axis=1)
        _make_scales(halves[:, 1::2], LEVELS_EXPONENT)
        levels &= 0xFF if kind.bits == 2 else MOST_LEVEL
        return
    # fp16 scales, then zero-points in 4.4 fixed point or fp16 minima.
    scales, others = rest[: 2 * blocks], rest[2 * blocks :]
    _make_scales(scales[1::2], SCALE_EXPONENT)
    if kind.has_minima:
        _make_scales(others[1::2], SCALE_EXPONENT)
    elif kind.asymmetric:
        others &= (16 << kind.bits) - 1


def _random_bytes(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """uint8 [count]. The raw words of a bit generator are the only random numbers that numpy promises to keep."""
    words = np.random.SFC64(np.random.SeedSequence(seed)).random_raw(-(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]


def _make_scales(high_bytes: np.ndarray, exponent: int) -> None:
    """Changes fp16 numbers in place, given as their higher bytes: they get into [2**exponent, 2 * 2**exponent)."""
    high_bytes &= 0b11
    high_bytes |= exponent + FP16_BIAS << 2


def _floats(name: str, values: np.ndarray) -> OutputTensor:
    return OutputTensor(name, values.shape, FLOAT_ID, "f32", prod(values.shape) * FLOAT_BYTES, lambda: values)


def _architecture(recipe: Recipe) -> LlamaArchitecture | HybridArchitecture:
    shape = recipe.shape
    if shape.delta_nets:
        return HybridArchitecture(shape, recipe.layers, recipe.vocabulary)
    config = {
        "vocab_size": recipe.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
    }
    return LlamaArchitecture(config, Path(shape.name))


def _described(recipe: Recipe) -> RandomModel:
    sizes = {tensor.name: tensor.nbytes for tensor in tensors(recipe)}
    total = sum(sizes.values())
    return RandomModel(recipe.path, total, total - sizes["token_embd.weight"])
