"""The repackers as C text: their functions, and the tables of stock types and repackers. Pure and deterministic.

Comes in: repack.py, common/stock.py. Goes out: the text of each generated file.
"""

from __future__ import annotations

from ..common.format import TYPES
from ..common.stock import STOCK_TYPES, StockType
from .catalog_source import bits_of_features, features_of, per_machine
from .format_source import banner
from .isa import Isa
from .repack import REPACKERS, Repacker, left_to_stock


def declaration(repacker: Repacker) -> str:
    indent = " " * len(f"int {repacker.name}(")
    return (
        f"int {repacker.name}(const void * from, void * to, int64_t rows, int64_t cols,\n"
        f"{indent}int64_t first_tile, int64_t last_tile)"
    )


def functions(isa: Isa) -> list[str]:
    """The C text of the repackers compiled for an instruction set, each with its declaration."""
    return [
        f"\n{declaration(repacker)};\n{declaration(repacker)} {{\n"
        "    const struct repacking of = { from, to, rows, cols };\n"
        f"    return {repacker.call};\n}}\n"
        for repacker in REPACKERS
        if repacker.isa == isa
    ]


def stock_type_row(stock: StockType) -> str:
    """A `struct tmac_stock_type`."""
    target = f"&tmac_types[{TYPES.index(stock.target)}]"
    return f'    {{ "{stock.name}", {stock.id}, {stock.block}, {stock.nbytes}, {target}, "{left_to_stock(stock)}" }},'


def repacker_row(repacker: Repacker, feature_bits: dict[str, int]) -> str:
    """A `struct tmac_repacker`."""
    features = features_of(repacker.isa, feature_bits)
    stock = f"&tmac_stock_types[{STOCK_TYPES.index(repacker.stock)}]"
    return f'    {{ "{repacker.name}", {features}, {stock}, {repacker.name} }},'


def tables_source() -> str:
    """repackers.c: the tables of stock types and of repackers, for all architectures."""
    feature_bits = bits_of_features()

    def on(machine: str) -> list[Repacker]:
        return [repacker for repacker in REPACKERS if repacker.isa.machine == machine]

    lines = [
        banner("repack.py") + '#include "interface/tmac.h"',
        "",
        *per_machine(lambda machine: [f"{declaration(repacker)};" for repacker in on(machine)]),
        "",
        "const struct tmac_stock_type tmac_stock_types[] = {",
        *map(stock_type_row, STOCK_TYPES),
        "};",
        "const size_t tmac_stock_type_count = sizeof tmac_stock_types / sizeof tmac_stock_types[0];",
        "",
        "const struct tmac_repacker tmac_repackers[] = {",
        *per_machine(lambda machine: [repacker_row(repacker, feature_bits) for repacker in on(machine)]),
        "};",
        "const size_t tmac_repacker_count = sizeof tmac_repackers / sizeof tmac_repackers[0];",
        "",
    ]
    return "\n".join(lines)
