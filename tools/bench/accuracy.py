"""How far W x is from float64: with our kernels, and with llama.cpp's rounding of activations, on the same codes.

Comes in: packed matrices and what they mean in float64. Goes out: one `Accuracy` for each matrix and distribution of
activations; and what the averaging of the precision `fast` costs and gains. The kernels are those that serve on this
CPU. llama.cpp's types are computed in float64, but for the rounding that they do. All numbers but the times follow from
the seed.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tmac.common.cpu import machine
from tmac.common.format import TILE_ROWS, TmacType
from tmac.kernels import native
from tmac.kernels.catalog import KERNELS, isas_for
from tmac.kernels.forms import PRECISIONS
from tmac.kernels.spec import KernelSpec

from ..errors import ToolError
from .gemv import speed_ratios
from .loops import TimedProduct
from .matrices import prepare_gemv

# A normal distribution, one with heavy tails, and one with the few large columns that real models have.
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "student t, 4 degrees": lambda rng, shape: rng.standard_t(4, shape),
    "0.3 % outliers x 30": lambda rng, shape: rng.standard_normal(shape) * np.where(rng.random(shape) < 0.003, 30, 1),
}
LARGEST_TO_Q8_K = 1.3
Q8_K_GROUP = 256


def q8_0(x: np.ndarray) -> np.ndarray:
    """x [..., K] as Q8_0 has it: groups of 32, int8, an fp16 scale. K % 32 == 0."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 127
    return (_rounded(groups, scale) * scale.astype(np.float16).astype(np.float64)).reshape(x.shape)


def q8_k(x: np.ndarray) -> np.ndarray:
    """x [..., K] as Q8_K has it: groups of 256, int8 that reaches -127 at the largest magnitude, a float32 scale."""
    groups = x.reshape(*x.shape[:-1], -1, Q8_K_GROUP)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1, keepdims=True), axis=-1)
    scale = (largest / -127).astype(np.float32).astype(np.float64)
    return (np.minimum(_rounded(groups, scale), 127) * scale).reshape(x.shape)


def int8_one_scale(x: np.ndarray) -> np.ndarray:
    """x [..., K] in int8 with one scale for all columns, as BitNet models are trained."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return _rounded(x, scale) * scale


def _rounded(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale != 0))


STOCK = {"q8_0": q8_0, "q8_k": q8_k, "int8": int8_one_scale}


@dataclass(frozen=True)
class ReferenceMatrix:
    """packed: the bytes of W in the T-MAC layout, uint8; weights: W, float64 [M, K], K % 256 == 0."""

    type: TmacType
    packed: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Accuracy:
    """nmse: sum (y - Wx)^2 / sum (Wx)^2 over all vectors, by the name of what computed y: a precision, a form of
    activations that GEMM kernels take instead of tables, or a stock rounding. kernels: by precision and form.
    """

    activations: str
    type: str
    nmse: dict[str, float]
    kernels: dict[str, str]

    def ratio(self, stock: str) -> float:
        """The default precision's error, in units of a stock rounding's."""
        return self.nmse[PRECISIONS[0]] / self.nmse[stock]

    @property
    def judge(self) -> str:
        """The stock rounding of the project's limit: near Q8_K for normal activations, below Q8_0 for heavy tails."""
        return "q8_k" if self.activations == "normal" else "q8_0"

    def holds(self) -> bool:
        """Whether the default precision keeps to that limit."""
        ratio = self.ratio(self.judge)
        return ratio <= LARGEST_TO_Q8_K if self.judge == "q8_k" else ratio < 1

    def as_dict(self) -> dict:
        return dataclasses.asdict(self) | {"holds": self.holds()}


def check_shape(rows: int, cols: int) -> None:
    """Raises ToolError for what the layout or Q8_K cannot hold."""
    if cols % Q8_K_GROUP or rows % TILE_ROWS:
        raise ToolError(
            f"a matrix of {rows} x {cols} cannot be compared with Q8_K",
            f"rows must be a multiple of {TILE_ROWS}, columns of {Q8_K_GROUP}",
        )


def measure(matrices: Iterable[ReferenceMatrix], vectors: int, seed: int, library: native.Library) -> list[Accuracy]:
    """One `Accuracy` for each distribution and matrix, over `vectors` random activation vectors. Raises TmacError."""
    errors = []
    for matrix in matrices:
        rows, cols = matrix.weights.shape
        check_shape(rows, cols)
        kernels = {p: library.select(matrix.type, precision=p) for p in precisions_of(matrix.type)}
        prompts = prompt_kernels(matrix.type, library)
        for name, draw in DISTRIBUTIONS.items():
            x = np.float32(draw(np.random.default_rng(seed), (vectors, cols))).astype(np.float64)
            exact = x @ matrix.weights.T
            nmse = {stock: _nmse(round_(x) @ matrix.weights.T, exact) for stock, round_ in STOCK.items()}
            for precision, kernel in kernels.items():
                y = [library.gemv(kernel, matrix.packed, rows, cols, library.prepare(kernel, each)) for each in x]
                nmse[precision] = _nmse(np.array(y, np.float64), exact)
            for form, kernel in prompts.items():
                prepared = [library.prepare(kernel, np.float32(each)) for each in x]
                nmse[form] = _nmse(library.gemm(kernel, matrix.packed, rows, cols, prepared).astype(np.float64), exact)
            errors.append(Accuracy(name, matrix.type.name, nmse, kernels | prompts))
    return sorted(errors, key=lambda error: list(DISTRIBUTIONS).index(error.activations))


def precisions_of(weight_type: TmacType) -> tuple[str, ...]:
    """The precisions that serve a type: all, or the default one."""
    found = {kernel.precision for kernel in KERNELS if kernel.type == weight_type}
    return PRECISIONS if len(found) > 1 else PRECISIONS[:1]


def prompt_kernels(weight_type: TmacType, library: native.Library) -> dict[str, str]:
    """The GEMM kernels of `rounded` whose activations are not tables, by `prompt int8` and `prompt bf16`."""
    kernels = [
        KernelSpec(weight_type, isa, "gemm", form)
        for form in ("int8", "bf16")
        for isa in isas_for(machine())
        if form in isa.gemm_forms
    ]
    runnable = [kernel for kernel in kernels if kernel in KERNELS and library.runs_here(kernel.name)]
    return {f"prompt {kernel.form}": kernel.name for kernel in reversed(runnable)}


def _nmse(y: np.ndarray, exact: np.ndarray) -> float:
    return float(((y - exact) ** 2).sum() / (exact**2).sum())


@dataclass(frozen=True)
class FastSpeed:
    """Times of the fast kernel, in units of the same instruction set's rounded one and of the rounded one that serves.

    Medians of alternating rounds; in_memory is None where only the cache was asked for.
    """

    kernel: str
    serving: str
    in_cache: float
    in_memory: float | None
    in_cache_to_serving: float
    in_memory_to_serving: float | None

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def fast_speeds(
    types: Sequence[TmacType], rows: int, cols: int, total_bytes: int, rounds: int, log: Callable[[str], None]
) -> list[FastSpeed]:
    """What fast aggregation gains with one thread, by type and by instruction set that has it. Raises ToolError.

    Of types that have it: none for ternary ones.
    """
    if not types:
        return []
    library = native.library()
    isas = [isa for isa in isas_for(machine()) if "fast_tables" in isa.gemv_forms]
    isas = [
        isa for isa in isas if isa.parameters and library.runs_here(KernelSpec(types[0], isa, "gemv", "tables").name)
    ] or isas[-1:]
    speeds = []
    for weight_type, isa in ((weight_type, isa) for weight_type in types for isa in isas):
        fast, rounded = (KernelSpec(weight_type, isa, "gemv", form) for form in ("fast_tables", "tables"))
        serving = KernelSpec.parse(library.select(weight_type))
        log(f"{fast.name}: {rounds} rounds")
        cached = prepare_gemv(library, fast, rows, cols, 0)
        in_cache = [_time_ratio(library, cached, other, rounds) for other in (rounded, serving)]
        in_memory = [None, None]
        if total_bytes:
            product = prepare_gemv(library, fast, rows, cols, total_bytes)
            in_memory = [_time_ratio(library, product, other, rounds) for other in (rounded, serving)]
        speeds.append(FastSpeed(fast.name, serving.name, in_cache[0], in_memory[0], in_cache[1], in_memory[1]))
    return speeds


def _time_ratio(library: native.Library, product: TimedProduct, other: KernelSpec, rounds: int) -> float:
    """Time of the kernel of a product in units of another's of the same type on the same bytes."""
    prepared = [library.prepare(other.name, product.x[0])]
    compared = dataclasses.replace(product, spec=other, row=library.row(other.name), prepared=prepared)
    return statistics.median(speed_ratios(library, product, compared, 1, rounds))
