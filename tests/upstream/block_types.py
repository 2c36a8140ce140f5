"""ggml's types: numbers, names, sizes and layouts of blocks, and what the bits of a block mean."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from support.llama_tree import LlamaTree, NotFound, block_layout, enclosed, evaluate, split
from support.stock import SCALES_AT
from upstream import ours
from upstream.fact import Fact, differences

GGML_H, GGML_C, COMMON_H, QUANTS_C = (
    "ggml/include/ggml.h",
    "ggml/src/ggml.c",
    "ggml/src/ggml-common.h",
    "ggml/src/ggml-quants.c",
)
LLAMA_H = "include/llama.h"
# Types that no tensor of a file has: rows of activations while they are multiplied.
NOT_IN_FILES = {"q8_1", "q8_k"}
_SIZES = {
    "int8_t": 1,
    "int16_t": 2,
    "int32_t": 4,
    "int64_t": 8,
    "float": 4,
    "double": 8,
    "ggml_fp16_t": 2,
    "ggml_bf16_t": 2,
}
# What dequantize_row_q4_K and _q5_K call.
SCALES_OF_K = "get_scale_min_k4"
# fp16 -> float32 for finite numbers.
_EXPONENT = "(((x) >> 10) & 31)"
_HALF = (
    f"(ldexpf(((x) & 0x3FF) + ({_EXPONENT} ? 1024 : 0), ({_EXPONENT} ? {_EXPONENT} : 1) - 25) * ((x) >> 15 ? -1 : 1))"
)


def type_numbers(llama: LlamaTree) -> dict[str, int]:
    """The number of each type by its name in lower case."""
    values = llama.enum(GGML_H, "ggml_type")
    return {name.removeprefix("GGML_TYPE_").lower(): number for name, number in values.items() if "COUNT" not in name}


def table_of_types(llama: LlamaTree) -> dict[int, tuple[str, int, int]]:
    """Number -> name in lower case, weights and bytes of a block, of all types that llama.cpp can have in a file."""
    numbers, macros, found = llama.enum(GGML_H, "ggml_type"), llama.macros(COMMON_H), {}
    for row in split(llama.block(GGML_C, r"\btype_traits\[GGML_TYPE_COUNT\]\s*=\s*\{")):
        key = re.match(r"\[(?:GGML_TYPE_)?(\w+)\]", row)[1]
        fields = dict(re.findall(r"\.(\w+)\s*=\s*([^,]+?)\s*(?:,|$)", enclosed(row, row.index("{")).strip()))
        if f"GGML_TYPE_{key}" not in numbers or fields["blck_size"] == "0":
            continue
        name = fields["type_name"].strip('"').lower()
        sized = re.fullmatch(r"sizeof\((\w+)\)", fields["type_size"])[1]
        nbytes = _SIZES.get(sized) or block_layout(llama, sized.removeprefix("block_")).nbytes
        found[numbers[f"GGML_TYPE_{key}"]] = name, evaluate(fields["blck_size"], macros), nbytes
    missing = [name for name, number in numbers.items() if number not in found and name != "GGML_TYPE_COUNT"]
    if missing:
        raise NotFound(f"{GGML_C} has no rows in type_traits for {', '.join(missing)}")
    return {number: row for number, row in found.items() if row[0] not in NOT_IN_FILES}


def check_table(llama: LlamaTree) -> Iterable[str]:
    """What ggml_types.py knows of a type: by its own list, else by the gguf package."""
    theirs, types = table_of_types(llama), ours.ggml_types
    # The package also keeps numbers that ggml has given up.
    known = {
        number: (kind.name, kind.block, kind.nbytes)
        for number, kind in types.TYPES.items()
        if kind.name not in NOT_IN_FILES and number not in types.FORK_IDS
        if number in theirs or number in (types.Q1_0.id, types.Q2_0.id)
    }
    return differences("type", theirs, known)


def check_free_numbers(llama: LlamaTree) -> Iterator[str]:
    numbers = llama.enum(GGML_H, "ggml_type")
    taken = {number: name for name, number in numbers.items() if name != "GGML_TYPE_COUNT"}
    for number, name in {
        **ours.ggml_types.BITNET_NAMES,
        **dict.fromkeys(ours.ggml_types.FORK_IDS, "a type of Prism"),
    }.items():
        if number in taken:
            yield f"llama.cpp now has the number {number} for {taken[number]}; for us it is {name}"
    if numbers["GGML_TYPE_COUNT"] > ours.tmac_format.FIRST_TYPE_ID:
        yield f"llama.cpp now has {numbers['GGML_TYPE_COUNT']} types; T-MAC's begin at {ours.tmac_format.FIRST_TYPE_ID}"
    for name, value in llama.enum(LLAMA_H, "llama_ftype").items():
        if value == ours.tmac_format.FILE_TYPE:
            yield f"llama.cpp now has the file type {value} for {name}; T-MAC's is the same"
        if name == "LLAMA_FTYPE_GUESSED" and value & ours.tmac_format.FILE_TYPE:
            yield f"llama.cpp now marks a guessed file type by {value}, a bit of T-MAC's {ours.tmac_format.FILE_TYPE}"


def check_stock_types(llama: LlamaTree) -> Iterable[str]:
    numbers, table = type_numbers(llama), table_of_types(llama)
    layouts = {kind.name: block_layout(llama, _struct(kind.name)) for kind in ours.stock_types.BENCH_TYPES.values()}
    theirs = {
        name: (numbers[name.lower()], table[numbers[name.lower()]][1], layout.nbytes, layout.halves)
        for name, layout in layouts.items()
    }
    copied = {
        kind.name: (_number(kind), kind.block_weights, kind.block_bytes, kind.scales_at)
        for kind in ours.stock_types.BENCH_TYPES.values()
    }
    yield from differences("type (number, weights, bytes, places of fp16 fields)", theirs, copied)
    repacked = {kind.name: (kind.id, kind.block, kind.nbytes) for kind in ours.stock.STOCK_TYPES}
    theirs = {name: (numbers[name], *table[numbers[name]][1:]) for name in repacked if name in numbers}
    yield from differences("repacked type (number, weights, bytes)", theirs, repacked)


def _number(kind) -> int:
    return kind.ggml_id if hasattr(kind, "ggml_id") else kind.id


def _struct(name: str) -> str:
    """The struct's name ends as the type's: q4_0, but q4_K."""
    return name[0].lower() + name[1:] if name.endswith("_K") else name.lower()


def check_block_types(llama: LlamaTree) -> Iterable[str]:
    theirs, numbers = table_of_types(llama), type_numbers(llama)
    copied = {
        n: (kind.name, kind.stored.block, kind.stored.nbytes)
        for n, kind in ours.ggml_blocks.BLOCK_TYPES.items()
        if n not in ours.ggml_types.FORK_IDS
    }
    yield from differences("type", {n: theirs[n] for n in copied if n in theirs}, copied)
    yield from (
        f"llama.cpp has no type {kind.name} any more"
        for n, kind in ours.ggml_blocks.BLOCK_TYPES.items()
        if n in copied and kind.name not in numbers
    )


def check_decoding(llama: LlamaTree) -> Iterator[str]:
    """dequantize_row_* of the tree, compiled, and our decoders give the same weights for the same random blocks."""
    kinds = [kind for number, kind in ours.ggml_blocks.BLOCK_TYPES.items() if number not in ours.ggml_types.FORK_IDS]
    with tempfile.TemporaryDirectory() as folder:
        library = _compiled(llama, [_function(kind) for kind in kinds], Path(folder))
        for kind in kinds:
            blocks = _random_blocks(kind, 64)
            theirs = np.empty((len(blocks), kind.stored.block), np.float32)
            library[_function(kind)](
                blocks.ctypes.data_as(ctypes.c_void_p),
                theirs.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(theirs.size),
            )
            decoded = _values(kind, blocks)
            if not np.array_equal(decoded, theirs):
                row, column = np.argwhere(decoded != theirs)[0]
                yield (
                    f"llama.cpp now reads weight {column} of a {kind.name} block as {theirs[row, column]:g}; "
                    f"ours is {decoded[row, column]:g}"
                )


def _function(kind) -> str:
    """The name ends as the type's in ggml: q4_0, but q4_K."""
    return f"dequantize_row_{re.sub('k$', 'K', kind.name)}"


def _compiled(llama: LlamaTree, names: list[str], folder: Path) -> ctypes.CDLL:
    """The library of these functions, as they stand in ggml-quants.c."""
    code = llama.code(QUANTS_C)
    source = [
        "#include <assert.h>",
        "#include <math.h>",
        "#include <stdint.h>",
        "#include <stddef.h>",
        "#define GGML_RESTRICT",
    ]
    source += [f"#define GGML_FP16_TO_FP32(x) {_HALF}", "#define GGML_COMMON_DECL_C", '#include "ggml-common.h"']
    for name in (SCALES_OF_K, *names):
        start = re.search(rf"(?:static inline )?void {name}\([^)]*\)\s*\{{", code)
        if not start:
            raise NotFound(f"{QUANTS_C} has no {name}")
        source.append(f"{start[0]}{enclosed(code, start.end() - 1)}}}")
    (folder / "ggml-common.h").write_text(llama.raw(COMMON_H), "utf-8")
    (folder / "rows.c").write_text("\n".join(source), "utf-8")
    command = [*ours.compilers.find_c_compiler(), "-std=gnu11", "-shared", "-fPIC", "-o", "rows.so", "rows.c", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "rows.so"))


def _random_blocks(kind, count: int) -> np.ndarray:
    """uint8 [count, bytes]: any codes that a T-MAC type has, scales from 2**-7 to 2**-6 of both signs."""
    rng = np.random.default_rng(kind.stored.id)
    blocks = rng.integers(0, 256, (count, kind.stored.nbytes), dtype=np.uint8)
    if kind.name == "tq2_0":
        digits = rng.integers(0, 3, (count, kind.stored.nbytes, 4), dtype=np.uint8)
        blocks[:] = digits[..., 0] | digits[..., 1] << 2 | digits[..., 2] << 4 | digits[..., 3] << 6
    for at in SCALES_AT[kind.stored.id]:
        scales = (rng.integers(1024, 2048, count) / 2**17 * rng.choice([-1, 1], count)).astype(np.float16)
        blocks[:, at : at + 2] = scales.astype("<f2").view(np.uint8).reshape(-1, 2)
    return np.ascontiguousarray(blocks)


def _values(kind, blocks: np.ndarray) -> np.ndarray:
    """float32 [n, block]: what the decoded blocks mean in their T-MAC type."""
    return ours.ggml_blocks.linear_of(kind, "blocks", blocks, kind.stored.block).dequantize()


def check_activations(llama: LlamaTree) -> Iterable[str]:
    macros = llama.macros(COMMON_H)
    theirs = {name: evaluate(macros[name], macros) for name in ("QK_K", "QK8_0")}
    return differences("width of a group of activations", theirs, {"QK_K": ours.accuracy.Q8_K_GROUP, "QK8_0": 32})


FACTS = [
    Fact(
        "table of types",
        [ours.ggml_types],
        f"{GGML_H}, {GGML_C}, {COMMON_H}",
        check_table,
        (
            (GGML_H, "GGML_TYPE_Q2_0    = 42", "GGML_TYPE_Q2_0    = 43"),
            (GGML_H, "GGML_TYPE_COUNT   = 43", "GGML_TYPE_NEW = 43, GGML_TYPE_COUNT = 44"),
            (COMMON_H, "#define QK2_0 64", "#define QK2_0 128"),
            (GGML_C, '.type_name                = "q1_0"', '.type_name                = "q1_1"'),
        ),
    ),
    Fact(
        "numbers that llama.cpp leaves free",
        [ours.tmac_format, ours.ggml_types],
        f"{GGML_H}, {LLAMA_H}",
        check_free_numbers,
        (
            (GGML_H, "GGML_TYPE_COUNT   = 43", "GGML_TYPE_X = 0x300, GGML_TYPE_COUNT = 0x301"),
            (GGML_H, "GGML_TYPE_COUNT   = 43", "GGML_TYPE_X = 142, GGML_TYPE_COUNT = 143"),
            (LLAMA_H, "LLAMA_FTYPE_MOSTLY_Q2_0          = 41", "LLAMA_FTYPE_MOSTLY_Q2_0 = 512"),
        ),
    ),
    Fact(
        "types that T-MAC's are compared with, and that it repacks",
        [ours.stock_types, ours.stock],
        f"{GGML_H}, {GGML_C}, {COMMON_H}",
        check_stock_types,
        (
            (GGML_H, "GGML_TYPE_Q2_K    = 10", "GGML_TYPE_Q2_K    = 44"),
            (GGML_H, "GGML_TYPE_Q5_1    = 7", "GGML_TYPE_Q5_1    = 44"),
            (COMMON_H, "uint8_t hmask[QK_K/8];", "uint8_t hmask[QK_K/4];"),
        ),
    ),
    Fact(
        "types that are converted without loss",
        [ours.ggml_blocks],
        f"{GGML_H}, {GGML_C}, {COMMON_H}",
        check_block_types,
        (
            (COMMON_H, "#define QK1_0 128", "#define QK1_0 256"),
            (GGML_H, "GGML_TYPE_TQ1_0   = 34", "GGML_TYPE_TQ1_0   = 33"),
        ),
    ),
    Fact(
        "what the bits of a block mean",
        [ours.ggml_blocks],
        f"{QUANTS_C}, {COMMON_H}",
        check_decoding,
        (
            (QUANTS_C, "(x[i].qs[j] >>   4) - 8", "(x[i].qs[j] >>   4) - 7"),
            (QUANTS_C, "((int)q - 1) * d", "((int)q - 2) * d"),
            (
                COMMON_H,
                "ggml_half d; // delta\n            ggml_half m; // min",
                "ggml_half m; // min\n            ggml_half d; // delta",
            ),
            (QUANTS_C, "bit ? d : neg_d", "bit ? neg_d : d"),
            (QUANTS_C, "int8_t q = (x[i].qs[j + m] >> (l*2)) & 3", "int8_t q = (x[i].qs[j + m] >> (6 - l*2)) & 3"),
            (QUANTS_C, "int16_t xi = ((uint16_t) q * 3) >> 8", "int16_t xi = 2 - (((uint16_t) q * 3) >> 8)"),
        ),
    ),
    Fact(
        "groups of rounded activations",
        [ours.accuracy],
        COMMON_H,
        check_activations,
        ((COMMON_H, "#define QK_K 256", "#define QK_K 512"),),
    ),
]
