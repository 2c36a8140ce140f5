"""What llama.cpp's converter does to the rows and columns of a matrix, found out without the matrix.

In: a lazy tensor that the converter made of the checkpoint's. It is computed three times of probes, which have the
shapes of the checkpoint's matrices and hold, at every place, the number of the matrix, of the row or of the column.
Out: for each matrix of the result where each of its rows and columns is from, if it is a pure rearrangement; where
asked for, also if rows are multiplied by constants: these products are then left out of the three, and a fourth
computation, of ones, has the factors.

A probe is expanded from one row or column and takes no memory, and so do the copies of it that `Compact` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Number n is stored as -(n + HALF), and numbers begin here, so that arithmetic leaves their range: what is added,
# multiplied, rounded, clamped at zero or made positive is no number of a probe.
FIRST, HALF = 1 << 20, 0.5
# float32 holds multiples of HALF up to here.
LAST = 1 << 23
# Of what cannot be kept expanded: 1 GiB.
MAX_WEIGHTS = 1 << 28
# A matrix of floats that is made of more pieces than this is rather computed; no quantized one is.
MAX_RUNS = 1 << 10
PROBE = "_tmac_probe"

aten = torch.ops.aten
# Of a tensor and, where the program has one, a number.
PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


class NoRearrangement(Exception):
    """The converter does something else to a tensor. The text says what, in a few words."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A tensor of the checkpoint: its name there, its shape, and how its values are read (not for quantized ones)."""

    name: str
    shape: tuple[int, ...]
    quantized: bool
    read: Callable[[], torch.Tensor]

    @property
    def matrices(self) -> int:
        """How many matrices it is: three dimensions are a matrix for each index of the first."""
        return self.shape[0] if len(self.shape) == 3 else 1


def assigned(tensor: torch.Tensor, key: Any, value: Any) -> torch.Tensor:
    """The tensor after `tensor[key] = value`."""
    made = tensor.clone()
    made[key] = value
    return made


def assigned_in_probe(tensor: torch.Tensor, key: Any, value: Any) -> torch.Tensor:
    """The same of probes: what is the same along a dimension stays expanded. Raises NoRearrangement for a number."""
    if not isinstance(value, torch.Tensor):
        raise NoRearrangement("computes with its values")
    place = tensor[key]
    if place.shape == value.shape and _equal(place, value):
        return tensor
    keys = key if isinstance(key, tuple) else (key,)
    whole = [d for d in _expanded(tensor) if d >= len(keys) or keys[d] == slice(None)]
    if not all(isinstance(part, slice) for part in keys) or not set(whole) <= set(_expanded(value)):
        whole = []
    small = _limited(_narrowed(tensor, whole))
    made = small.new_empty(small.shape).copy_(small)
    made[key] = _narrowed(value, whole)
    return made.expand(tensor.shape)


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    same = set(_expanded(first)) & set(_expanded(second))
    return torch.equal(_narrowed(first, same), _narrowed(second, same))


def probe_of(node: Any) -> Probe | None:
    """The tensor of the checkpoint that a lazy tensor is, unless it is computed."""
    return vars(node).get(PROBE)


def sources(node: Any, lazy: type) -> dict[int, Probe]:
    """The tensors of the checkpoint that a lazy tensor is made of, by the identity of their lazy tensors."""
    found: dict[int, Probe] = {}
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, (list, tuple)):
            waiting.extend(current)
        elif isinstance(current, lazy) and id(current) not in seen:
            seen.add(id(current))
            if (probe := probe_of(current)) is not None:
                found[id(current)] = probe
            else:
                waiting.extend((current._args, tuple(current._kwargs.values())))
    return found


def compute(node: Any, lazy: type, value_of: Callable[[Probe], Any], assign: Callable = assigned) -> Any:
    """The value of a lazy tensor, with the checkpoint's tensors as `value_of` gives them. Nothing of it is kept.

    assign: what `assigned` is computed with
    """
    done: dict[int, Any] = {}

    def value(item: Any) -> Any:
        if isinstance(item, (list, tuple)):
            return type(item)(map(value, item))
        if not isinstance(item, lazy):
            return item
        if id(item) not in done:
            probe = probe_of(item)
            if probe is not None:
                done[id(item)] = value_of(probe)
            elif item._data is not None:
                done[id(item)] = item._data
            else:
                func = assign if item._func is assigned else item._func
                done[id(item)] = func(*value(item._args), **item._kwargs)
        return done[id(item)]

    return value(node)


@dataclass(frozen=True)
class Matrix:
    """One matrix of a result. `runs`: (probe, index of its matrix, int64 rows), one after the other.

    columns     int64: column i is column columns[i] of the sources; None: they are in order
    transposed  the rows are the sources' columns; `runs` and `columns` are of the transposed matrix
    factors     float64: what each of the rows of `runs` is multiplied by; None: by nothing
    """

    runs: list[tuple[Probe, int, torch.Tensor]]
    columns: torch.Tensor | None
    transposed: bool
    factors: torch.Tensor | None = None


def rearrangement(node: Any, lazy: type, *, scaled: bool = False) -> Iterator[Matrix]:
    """The matrices of a result of two or more dimensions, in order; with `scaled` their rows may have factors.

    Raises NoRearrangement.
    """
    probes = list(dict.fromkeys(sources(node, lazy).values()))
    if not probes or any(len(probe.shape) not in (2, 3) or 0 in probe.shape for probe in probes):
        raise NoRearrangement("uses what is no matrix")
    first = dict(zip(probes, _offsets(probe.matrices for probe in probes)))
    total = sum(probe.matrices for probe in probes)
    sizes = [total, *(probe.shape[-2] for probe in probes), *(probe.shape[-1] for probe in probes)]
    if max(sizes) > LAST - FIRST:
        raise NoRearrangement("has more rows than can be numbered")

    def numbered(dimension: int) -> torch.Tensor:
        def fill(probe: Probe) -> torch.Tensor:
            start = FIRST + (first[probe] if dimension == -3 else 0)
            if dimension == -3 and len(probe.shape) == 2:
                return torch.full((1, 1), -(start + HALF)).expand(probe.shape)
            count = probe.shape[dimension]
            shape = [1] * len(probe.shape)
            shape[dimension] = count
            numbers = torch.arange(start, start + count, dtype=torch.float32)
            return numbers.add_(HALF).neg_().view(shape).expand(probe.shape)

        return computed(fill, Compact(leaves_out_products=scaled))

    def computed(fill: Callable[[Probe], torch.Tensor], mode: Compact) -> torch.Tensor:
        try:
            with mode:
                return compute(node, lazy, fill, assigned_in_probe)
        except (RuntimeError, TypeError, ValueError, AssertionError) as problem:
            raise NoRearrangement(f"computes with its values ({str(problem).splitlines()[0][:100]})") from problem

    which, rows, columns = numbered(-3), numbered(-2), numbered(-1)
    if which.ndim < 2:
        raise NoRearrangement("makes no matrix of it")
    ones = None
    if scaled:
        ones = computed(
            lambda probe: torch.ones([1] * len(probe.shape), dtype=torch.float64).expand(probe.shape), Compact()
        )
        if ones.shape != which.shape or ones.dtype is not torch.float64:
            raise NoRearrangement("computes with its values")
    for place in range(which.shape[:-2].numel()):
        parts = [_flat(values, place) for values in (which, rows, columns)]
        matrix = _matrix(*parts, probes, first)
        yield matrix if ones is None else replace(matrix, factors=_factors(_flat(ones, place), matrix.transposed))


def _offsets(counts: Iterable[int]) -> Iterator[int]:
    start = 0
    for count in counts:
        yield start
        start += count


def _flat(values: torch.Tensor, place: int) -> torch.Tensor:
    """Matrix number `place` of a tensor, without a copy."""
    for size in reversed(values.shape[:-2]):
        place, index = divmod(place, size)
        values = values.select(-3, index)
    return values


def _matrix(which, rows, columns, probes: list[Probe], first: dict[Probe, int]) -> Matrix:
    for transposed in (False, True):
        across, along = (0, 1) if transposed else (1, 0)
        if _same(which, across) and _same(rows, across) and _same(columns, along):
            numbers = [_numbers(values.select(across, 0)) for values in (which, rows)]
            return _checked(*numbers, _numbers(columns.select(along, 0)), probes, first, transposed)
    raise NoRearrangement("mixes rows with columns")


def _factors(values: torch.Tensor, transposed: bool) -> torch.Tensor:
    """One for each row of the sources. A negative one would turn the codes round, and zero or infinity is no number."""
    if not _same(values, 0 if transposed else 1):
        raise NoRearrangement("multiplies columns by different numbers")
    factors = values.select(0 if transposed else 1, 0).clone()
    if not bool(((factors > 0) & torch.isfinite(factors)).all()):
        raise NoRearrangement("multiplies its values by a number that is not positive")
    return factors


def _same(values: torch.Tensor, dimension: int) -> bool:
    """Whether nothing changes along the dimension."""
    if values.stride(dimension) == 0 or values.shape[dimension] == 1:
        return True
    return bool((values == values.narrow(dimension, 0, 1)).all())


def _numbers(values: torch.Tensor) -> torch.Tensor:
    numbers = (-HALF - values).to(torch.int64)
    if not torch.equal(-(numbers.to(values.dtype) + HALF), values) or int(numbers.min()) < FIRST:
        raise NoRearrangement("computes with its values")
    return numbers - FIRST


def _checked(which, rows, columns, probes: list[Probe], first: dict[Probe, int], transposed: bool) -> Matrix:
    """Every row at most once, every column exactly once."""
    changes = (which[1:] != which[:-1]).nonzero().flatten() + 1
    bounds = [0, *changes.tolist(), len(which)]
    if len(bounds) - 1 > MAX_RUNS:
        raise NoRearrangement("takes single rows of many tensors")
    runs = []
    seen: dict[tuple[Probe, int], list[torch.Tensor]] = {}
    for start, stop in pairwise(bounds):
        number = int(which[start])
        probe = next((p for p in probes if first[p] <= number < first[p] + p.matrices), None)
        some = rows[start:stop]
        if probe is None or int(some.max()) >= probe.shape[-2] or len(columns) != probe.shape[-1]:
            raise NoRearrangement("computes with its values")
        index = number - first[probe]
        seen.setdefault((probe, index), []).append(some)
        runs.append((probe, index, some))
    if any(len(torch.unique(torch.cat(parts))) != sum(map(len, parts)) for parts in seen.values()):
        raise NoRearrangement("repeats rows")
    order = torch.arange(len(columns))
    if not torch.equal(columns.sort().values, order):
        raise NoRearrangement("repeats or leaves out columns")
    return Matrix(runs, None if torch.equal(columns, order) else columns, transposed)


class Compact(TorchDispatchMode):
    """Copies of expanded tensors stay expanded: what is the same along a dimension is copied once.

    `leaves_out_products`: products with and quotients by a number that the program has, none of a tensor, do nothing.
    """

    def __init__(self, leaves_out_products: bool = False):
        super().__init__()
        self._leaves_out_products = leaves_out_products

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Under inference_mode calls that are made of others (contiguous, reshape) come here whole.
        if func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        if func in PRODUCTS and len(args) == 2 and not kwargs and isinstance(args[1], (int, float)):
            tensor, number = args
            return tensor if self._leaves_out_products else _once(tensor, (), lambda small: func(small, number))
        if func is aten.clone.default:
            return _once(args[0], (), lambda small: torch.ops.aten.clone(small, **kwargs))
        if func is aten.index_select.default and args[0].ndim:
            tensor, dimension, index = args
            return _once(tensor, (dimension % tensor.ndim,), lambda small: func(small, dimension, index))
        if func in (aten.cat.default, aten.stack.default):
            return _joined(func, *args, **kwargs)
        if func in (aten.view.default, aten._unsafe_view.default):
            try:
                return func(*args, **kwargs)
            except RuntimeError:
                return func(_limited(args[0]).contiguous(), *args[1:], **kwargs)
        if not any(made.alias_info for made in func._schema.returns):
            for tensor in (value for value in args if isinstance(value, torch.Tensor)):
                _limited(tensor)
        return func(*args, **kwargs)


def _limited(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, of which a copy that is not expanded is going to be made."""
    if tensor.numel() > MAX_WEIGHTS:
        raise NoRearrangement("computes with its values")
    return tensor


def _expanded(tensor: torch.Tensor) -> list[int]:
    return [d for d in range(tensor.ndim) if tensor.stride(d) == 0 and tensor.shape[d] > 1]


def _narrowed(tensor: torch.Tensor, dimensions: Iterable[int]) -> torch.Tensor:
    for dimension in dimensions:
        tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def _once(tensor: torch.Tensor, moving: tuple[int, ...], copy: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A copy in which the dimensions `moving` may change; all others keep their sizes."""
    same = [dimension for dimension in _expanded(tensor) if dimension not in moving]
    made = copy(_narrowed(tensor, same))
    return made.expand([tensor.shape[d] if d in same else made.shape[d] for d in range(tensor.ndim)])


def _joined(func, tensors, dim: int = 0) -> torch.Tensor:
    """cat or stack of tensors that are the same along some dimension."""
    tensors = list(tensors)
    is_stack = func is aten.stack.default
    dim %= tensors[0].ndim + is_stack
    same = set(range(tensors[0].ndim))
    if len({tensor.ndim for tensor in tensors}) > 1:
        same = set()
    for tensor in tensors if same else []:
        same &= set(_expanded(tensor))
    if not is_stack and dim in same:
        small = [_narrowed(tensor, same) for tensor in tensors]
        if all(torch.equal(small[0], other) for other in small[1:]):
            # What goes on as it was is the same throughout.
            shape = list(tensors[0].shape)
            shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
            return small[0].expand(shape)
        same.discard(dim)
    made = func([_narrowed(tensor, same) for tensor in tensors], dim)
    shape = list(made.shape)
    for dimension in same:
        shape[dimension + (is_stack and dimension >= dim)] = tensors[0].shape[dimension]
    return made.expand(shape)
