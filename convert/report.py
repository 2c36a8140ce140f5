"""The result of a conversion, as data and as text; and tables of tensors by type, also for `inspect`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..common import tables
from ..common.errors import printable_line
from .quantize.quantizer import WARNING


@dataclass
class TypeTotal:
    """All tensors of one type."""

    type_name: str
    tensors: int = 0
    weights: int = 0
    nbytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.weights if self.weights else 0.0


@dataclass
class Report:
    """The result of a conversion. `nbytes` is the size of all `files`, `source` is tmac.source."""

    files: tuple[Path, ...]
    source: str
    totals: list[TypeTotal]
    nbytes: int
    notes: list[str] = field(default_factory=list)

    def render(self) -> str:
        """The totals as a table, then the notes, then the file and its size."""
        lines = [render_totals(self.totals), *map(_note_line, self.notes)]
        more = len(self.files) - 1
        others = f" and {more} more file{'s' * (more > 1)}" if more else ""
        lines.append(f"{self.files[0]}{others}: {human_size(self.nbytes)}, from {printable_line(self.source)}")
        return "\n".join(lines)


def total_by_type(tensors: Iterable[tuple[str, int, int]]) -> list[TypeTotal]:
    """Sums (type name, weights, bytes) per type, the largest first."""
    totals: dict[str, TypeTotal] = {}
    for type_name, weights, nbytes in tensors:
        total = totals.setdefault(type_name, TypeTotal(type_name))
        total.tensors += 1
        total.weights += weights
        total.nbytes += nbytes
    return sorted(totals.values(), key=lambda total: (-total.nbytes, total.type_name))


def render_totals(totals: list[TypeTotal]) -> str:
    """One line per type and one for all."""
    sums = (sum(getattr(total, key) for total in totals) for key in ("tensors", "weights", "nbytes"))
    whole = TypeTotal("all", *sums)
    heads = ("type", "tensors", "bits per weight", "size")
    rows = [
        (total.type_name, str(total.tensors), f"{total.bits_per_weight:.4g}", human_size(total.nbytes))
        for total in [*totals, whole]
    ]
    return tables.render(heads, rows, heads[:1])


def _note_line(note: str) -> str:
    line = printable_line(note)
    return line if line.startswith(WARNING) else f"note: {line}"


def human_size(nbytes: int) -> str:
    """Bytes with a decimal unit: `1.86 MB`."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{nbytes} B" if unit == "B" else f"{value:.2f} {unit}"
