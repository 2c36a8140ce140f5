"""`tmac bench error`: arguments, random matrices, tables. The measuring is in accuracy.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np

from tmac.common import console, tables
from tmac.common.format import LEVEL_RANGES, LEVELS_BLOCK, MINIMA, TYPES, ZEROS, TmacType, symmetric_zero
from tmac.convert.linear import QuantLinear
from tmac.convert.write.layout import pack
from tmac.kernels.forms import FAST, gemv_form, has_table_gemm
from tmac.kernels.native import library

from .. import arguments
from .accuracy import LARGEST_TO_Q8_K, Accuracy, FastSpeed, ReferenceMatrix, check_shape, fast_speeds, measure
from .matrices import no_memory

VECTORS = 16
# Bits -> the step, in standard deviations, of the uniform quantizer with the least error for normally distributed
# values (J. Max, Quantizing for minimum distortion, 1960); of three values.
BEST_STEPS = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 5: 0.1881, 6: 0.104}
BEST_TERNARY_STEP = 1.224
# Stored zero-points and minima add no error of their own: the sums of activations that they multiply are floats.
DEFAULT_TYPES = tuple(t for t in TYPES if t.grid not in (ZEROS, MINIMA))
NAMES = {"q8_0": "Q8_0", "q8_k": "Q8_K", "int8": "int8 per token"}


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench error`."""
    parser.description = (
        "Normalized mean square error of W x against float64, for normally distributed weights in each type and three "
        "distributions of activations: of the kernels that serve on this CPU in each precision; of GEMM kernels whose "
        "activations are not tables; and, on the same codes, of what llama.cpp's own types do to activations (Q8_0: "
        "groups of 32; Q8_K: groups of 256) and of int8 with one scale per token. "
        "Then what the precision `fast`, which is off by default, costs and gains."
    )
    parser.set_defaults(work=main)
    arguments.add_types(parser, DEFAULT_TYPES, "all without zero-points and fp16 minima")
    arguments.add_shape(parser, (2048, 4096))
    arguments.add_timing(parser, megabytes=900, rounds=7)
    arguments.add_json(parser)
    parser.add_argument(
        "--seed",
        type=arguments.count,
        default=1,
        metavar="S",
        help="of weights and activations; errors follow from it (default: 1)",
    )


def main(args: argparse.Namespace) -> None:
    """Measures and prints. Raises TmacError."""
    check_shape(*args.shape)
    console.log(f"errors of {len(args.types)} types, {args.shape[0]} x {args.shape[1]}, {VECTORS} vectors each")
    errors = measure(random_matrices(args.types, *args.shape, args.seed), VECTORS, args.seed, library())
    speeds = fast_speeds(
        _largest_groups(args.types), *args.shape, args.megabytes * arguments.MEGABYTE, args.rounds, console.log
    )
    if args.json:
        print(
            json.dumps(
                {
                    "rows": args.shape[0],
                    "cols": args.shape[1],
                    "vectors": VECTORS,
                    "seed": args.seed,
                    "errors": [error.as_dict() for error in errors],
                    "fast": [speed.as_dict() for speed in speeds],
                    "limits_hold": all(error.holds() for error in errors),
                },
                indent=1,
            )
        )
    else:
        print("\n\n".join([render_errors(errors), limits_line(errors), render_speeds(errors, speeds)]))


def random_matrices(types: Sequence[TmacType], rows: int, cols: int, seed: int) -> Iterator[ReferenceMatrix]:
    """One matrix of normally distributed weights in each type: the nearest codes, as a checkpoint would have them.

    Ternary codes are BitNet's, whose scale is the mean magnitude. Zero-points and minima differ from group to group.
    Raises ToolError without memory.
    """
    try:
        weights = np.random.default_rng(seed).standard_normal((rows, cols), np.float32)
    except (MemoryError, ValueError):
        raise no_memory(rows, cols) from None
    for weight_type in types:
        linear = _nearest(weight_type, weights, np.random.default_rng(seed))
        yield ReferenceMatrix(weight_type, pack(linear), linear.dequantize().astype(np.float64))


def _nearest(weight_type: TmacType, weights: np.ndarray, rng: np.random.Generator) -> QuantLinear:
    """The nearest codes on a grid of the type, whose zero-points or minima are random, near the middle of the codes."""
    rows, cols = weights.shape
    top, groups = (1 << weight_type.bits) - 1, cols // (weight_type.group or cols)
    if weight_type.group:
        step = BEST_TERNARY_STEP if weight_type.ternary else BEST_STEPS[weight_type.bits]
        scales = np.float16(step * np.sqrt((weights.reshape(rows, groups, -1) ** 2).mean(axis=2)))
    else:
        scales = np.full((rows, 1), np.abs(weights).mean())
    middle = np.full((rows, groups), symmetric_zero(weight_type.bits) / 16)
    factors = {"scales": scales if weight_type.group else np.zeros((rows, 0), np.float16), "zeros": None}
    if weight_type.asymmetric:
        factors["zeros"] = rng.integers(8 * top - 8, 8 * top + 8, (rows, groups), np.uint8)
        middle = factors["zeros"] / 16
    minima = np.float32(scales) * rng.uniform(top / 2 - 0.5, top / 2 + 0.5, scales.shape)
    if weight_type.has_levels:
        factors["scales"], factors["levels"], scales = _levels(weight_type, scales)
        if weight_type.has_minima:
            factors["minima"], levels, minima = _levels(weight_type, minima)
            factors["minimum_levels"] = levels.view(np.uint8)
    elif weight_type.has_minima:
        factors["minima"] = np.float16(-minima)
    if weight_type.has_minima:
        middle = minima / np.float32(scales)
    near = weights / _by_column(scales, cols) + _by_column(middle, cols)
    is_ternary = weight_type.ternary or not weight_type.group
    codes = np.clip(np.rint(near), 1 if is_ternary else 0, top).astype(np.uint8)
    kind = {"bits": weight_type.bits, "group": weight_type.group, "ternary": weight_type.ternary}
    return QuantLinear(codes=codes, **kind, **factors)


def _levels(weight_type: TmacType, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive numbers of groups as fp16 numbers of blocks and int8 levels; their products."""
    blocks = np.float32(values).reshape(len(values), -1, LEVELS_BLOCK // weight_type.group)
    steps = np.float16(blocks.max(axis=2) / LEVEL_RANGES[weight_type.bits][1])
    levels = np.rint(blocks / np.float32(steps)[..., None])
    products = (levels * np.float32(steps)[..., None]).reshape(values.shape)
    return steps, levels.reshape(values.shape).astype(np.int8), products


def _by_column(per_group: np.ndarray, cols: int) -> np.ndarray:
    return np.repeat(per_group.astype(np.float32), cols // per_group.shape[1], axis=1)


def _largest_groups(types: Sequence[TmacType]) -> list[TmacType]:
    """One type of each bit width and kind that has fast kernels: groups differ little in what it costs and gains."""
    fast = (t for t in types if gemv_form(FAST, t.ternary) and has_table_gemm(t))
    kinds = {(t.bits, not t.group, t.asymmetric): t for t in sorted(fast, key=lambda t: t.group)}
    return list(kinds.values())


def render_errors(errors: Sequence[Accuracy]) -> str:
    """A Markdown table: one row for each distribution and type."""
    precisions = list(dict.fromkeys(name for error in errors for name in error.kernels))
    heads = ["activations", "weights", *NAMES.values(), *precisions, "rounded / Q8_K", "rounded / Q8_0"]
    rows = []
    for error in errors:
        cells = [f"{error.nmse[name]:.1e}" if name in error.nmse else "-" for name in (*NAMES, *precisions)]
        cells += [f"{error.ratio(stock):.2f}" for stock in ("q8_k", "q8_0")]
        rows.append([error.activations, error.type, *cells])
    return tables.render(heads, rows)


def limits_line(errors: Sequence[Accuracy]) -> str:
    """Whether the project's limits on the default precision hold."""
    what = f"rounded at most {LARGEST_TO_Q8_K} x Q8_K for normal activations, below Q8_0 for the others"
    broken = [
        f"{error.type}, {error.activations}: {error.ratio(error.judge):.3f} x {NAMES[error.judge]}"
        for error in errors
        if not error.holds()
    ]
    return "\n".join([f"limits broken ({what}):", *broken]) if broken else f"limits hold: {what}"


def render_speeds(errors: Sequence[Accuracy], speeds: Sequence[FastSpeed]) -> str:
    """A Markdown table: the error of `fast` beside its time; a sentence where no type has it."""
    if not speeds:
        return "these types have no fast kernels: those of rounded serve"
    heads = [
        "fast kernel",
        "error / rounded",
        "time / rounded of its ISA, cache",
        "memory",
        "rounded kernel that serves",
        "time / that, cache",
        "memory",
    ]
    rows = []
    for speed in speeds:
        error = next(error for error in errors if f"_{error.type}_" in speed.kernel)
        rows.append(
            [
                speed.kernel,
                f"{error.nmse['fast'] / error.nmse['rounded']:.1f}",
                _times(speed.in_cache),
                _times(speed.in_memory),
                speed.serving,
                _times(speed.in_cache_to_serving),
                _times(speed.in_memory_to_serving),
            ]
        )
    foot = "errors for normal activations; times: below 1, fast is faster; one thread"
    return f"{tables.render(heads, rows)}\n\n{foot}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
