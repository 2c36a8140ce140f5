"""The catalog as C text: headers, the dispatch table, ggml's table of types. Pure and deterministic.

Comes in: common/format.py, forms.py, interface.py and the catalog. Goes out: the text of each generated file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ..common.format import TYPES, TmacType
from .attention import ATTENTION_KERNELS, CACHE_TYPES, AttentionKernel
from .catalog import KERNELS, features_asked
from .crossings import DEFAULT, FAMILIES, NUMBERS, Crossings, column_of
from .delta_net import DELTA_NET_KERNELS, DeltaNetKernel
from .format_source import banner
from .forms import PRECISIONS, PREPARED, Prepared
from .interface import (
    ATTENTION_KERNEL,
    CROSSINGS,
    DELTA_NET_KERNEL,
    FORM_SIZES,
    KERNEL,
    ROTATION_KERNEL,
    STRUCTS,
    TYPE,
    Struct,
)
from .isa import ARCHITECTURES, ISAS, Isa
from .rotation import ROTATION_KERNELS, RotationKernel
from .spec import KernelSpec


def structs_header() -> str:
    """tmac_structs.h: the C structures of the interface."""
    texts = [banner("interface.py") + "#pragma once", *(struct.text for struct in STRUCTS)]
    return "\n\n".join(texts) + "\n"


def kernel_declaration(kernel: KernelSpec) -> str:
    y = "float * y," if kernel.method == "gemv" else "float * const * y, int64_t tokens,"
    indent = " " * len(f"void {kernel.name}(")
    return (
        f"void {kernel.name}(const struct tmac_matrix * w, const struct tmac_activations * x,\n"
        f"{indent}{y} int64_t first_tile, int64_t last_tile)"
    )


def attention_declaration(kernel: AttentionKernel) -> str:
    indent = " " * len(f"void {kernel.name}(")
    return (
        f"void {kernel.name}(const struct tmac_attention * a, const struct tmac_attention_plan * plan,\n"
        f"{indent}int64_t item, float * shared, void * scratch)"
    )


def delta_net_declarations(kernel: DeltaNetKernel) -> dict[str, str]:
    """By what each function does."""
    operand = {"update": "tmac_delta_net"}
    return {
        what: f"void {name}(const struct {operand.get(what, 'tmac_convolution')} * of, int64_t first, int64_t last)"
        for what, name in kernel.functions.items()
    }


def rotation_declaration(kernel: RotationKernel) -> str:
    indent = " " * len(f"void {kernel.name}(")
    return (
        f"void {kernel.name}(const float * x, const float * before, const float * after, float scale,\n"
        f"{indent}int64_t size, float * y)"
    )


def prepared_by(isa: Isa) -> tuple[Prepared, ...]:
    """The forms in which the functions of the instruction set `isa.prepared_by` prepare activations.

    Several instruction sets may share these functions. One template prepares all forms of a kind, so a kind that is
    needed comes with all its forms.
    """
    kinds = {kernel.prepared.kind for kernel in KERNELS if kernel.isa.prepared_by == isa.prepared_by}
    return tuple(prepared for prepared in PREPARED.values() if prepared.kind in kinds)


def declarations(machine: str) -> list[str]:
    kernels = [k for k in KERNELS if k.isa.machine == machine]
    prepares = dict.fromkeys(
        isa.prepare_symbol(prepared.name)
        for isa in dict.fromkeys(k.isa for k in kernels)
        for prepared in prepared_by(isa)
    )
    declared = [
        f"void {symbol}(const struct tmac_vector * x, int64_t first_block, int64_t last_block,\n"
        f"{' ' * len(f'void {symbol}(')}const struct tmac_activations * to);"
        for symbol in prepares
    ]
    attention = [k for k in ATTENTION_KERNELS if k.isa.machine == machine]
    delta_nets = [k for k in DELTA_NET_KERNELS if k.isa.machine == machine]
    declared += [f"{kernel_declaration(k)};" for k in kernels]
    declared += [f"{attention_declaration(k)};" for k in attention]
    declared += [f"{text};" for k in delta_nets for text in delta_net_declarations(k).values()]
    return declared + [f"{rotation_declaration(k)};" for k in ROTATION_KERNELS if k.isa.machine == machine]


def per_machine(rows_of: Callable[[str], list[str]]) -> list[str]:
    """Lines for all architectures: each architecture's own within its preprocessor guard, then those for any."""
    lines = []
    for machine, guard in ARCHITECTURES.items():
        lines += [f"#if {guard}", *rows_of(machine), "#endif"]
    return lines + rows_of("any")


def catalog_header() -> str:
    """catalog.h: C declarations of every kernel and of the functions that prepare its activations."""
    lines = [
        banner("catalog.py") + "#pragma once",
        "",
        '#include "interface/tmac.h"',
        "",
        *per_machine(declarations),
        "",
    ]
    return "\n".join(lines)


def type_row(kind: TmacType) -> str:
    values = {
        "name": f'"{kind.ggml_name}"',
        "id": hex(kind.id),
        "bits": kind.bits,
        "block_cols": kind.block_weights,
        "code_bytes": kind.code_bytes,
        "group": kind.group,
        "grid": f"TMAC_GRID_{kind.grid.upper()}",
    }
    return f"    {initializer(TYPE, values)},"


def kernel_row(kernel: KernelSpec, feature_bits: dict[str, int]) -> str:
    is_gemm = kernel.method == "gemm"
    values = {
        "name": f'"{kernel.name}"',
        "isa": f'"{kernel.isa.name}"',
        "type": f"&tmac_types[{TYPES.index(kernel.type)}]",
        "cpu_features": features_of(kernel.isa, feature_bits),
        "precision": f"TMAC_{kernel.precision.upper()}",
        "form": f"TMAC_{kernel.prepared.name.upper()}",
        "crossing": NUMBERS.index((kernel.isa.name, kernel.form, column_of(kernel.type))) if is_gemm else -1,
        "prepare": kernel.prepare_symbol,
        "gemv": "NULL" if is_gemm else kernel.name,
        "gemm": kernel.name if is_gemm else "NULL",
    }
    return f"    {initializer(KERNEL, values)},"


def crossings_rows(tables: Iterable[Crossings]) -> list[str]:
    """C: a row for each CPU of each table; a table without CPUs is for all."""
    feature_bits = bits_of_features()
    features = {isa.name: features_of(isa, feature_bits) for isa in ISAS}
    return [
        "    "
        + initializer(
            CROSSINGS,
            {
                "name": json.dumps(table.name),
                "cpu": "NULL" if cpu is None else json.dumps(cpu),
                "cpu_features": features[table.isa] if table.isa else "0",
                "least_tokens": f"(const uint8_t[]) {{ {', '.join(map(str, table.in_order()))} }}",
            },
        )
        + ","
        for table in tables
        for cpu in table.cpus or (None,)
    ]


def measured_source(measured: Crossings | None) -> str:
    """measured.c: the table of the machine that a build is for, if it was measured; else none."""
    rows = crossings_rows([measured] if measured else [])
    # An array of C has at least one element.
    return "\n".join(
        [
            banner("crossings.py and what was measured on this machine") + '#include "interface/tmac.h"',
            "",
            "const struct tmac_crossings tmac_measured[] = {",
            *(rows or ["    { NULL, NULL, 0, NULL },"]),
            "};",
            f"const size_t tmac_measured_count = {len(rows)};",
            "",
        ]
    )


def bits_of_features() -> dict[str, int]:
    """The bit of tmac_cpu_features() that stands for each feature."""
    return {f: i for i, f in enumerate(f for machine in ARCHITECTURES for f in features_asked(machine))}


def features_of(isa: Isa, feature_bits: dict[str, int]) -> str:
    """A C expression: the bits of the features that an instruction set needs."""
    return " | ".join(f"1u << {feature_bits[feature]}" for feature in isa.features) or "0"


def attention_row(kernel: AttentionKernel, feature_bits: dict[str, int]) -> str:
    values = {
        "name": f'"{kernel.name}"',
        "isa": f'"{kernel.isa.name}"',
        "cpu_features": features_of(kernel.isa, feature_bits),
        "tiled_from_rows": kernel.isa.tiled_from_rows,
        "attend": kernel.name,
    }
    return f"    {initializer(ATTENTION_KERNEL, values)},"


def delta_net_row(kernel: DeltaNetKernel, feature_bits: dict[str, int]) -> str:
    values = {
        "name": f'"{kernel.name}"',
        "isa": f'"{kernel.isa.name}"',
        "cpu_features": features_of(kernel.isa, feature_bits),
        **kernel.functions,
    }
    return f"    {initializer(DELTA_NET_KERNEL, values)},"


def rotation_row(kernel: RotationKernel, feature_bits: dict[str, int]) -> str:
    values = {
        "name": f'"{kernel.name}"',
        "isa": f'"{kernel.isa.name}"',
        "cpu_features": features_of(kernel.isa, feature_bits),
        "transform": kernel.name,
    }
    return f"    {initializer(ROTATION_KERNEL, values)},"


def initializer(struct: Struct, values: dict[str, object]) -> str:
    """A C initializer: a value for each field, in the order of the structure."""
    return f"{{ {', '.join(str(values[field.name]) for field in struct.fields)} }}"


def prepared_row(prepared: Prepared) -> str:
    values = {
        "column_bytes": prepared.column_bytes,
        "scale_columns": prepared.scale_columns,
        "has_steps": int(prepared.has_steps),
        "has_sums": int(prepared.has_sums),
        "has_half_sums": int(prepared.has_half_sums),
    }
    return f"    {initializer(FORM_SIZES, values)}, // {prepared.name}"


def catalog_source() -> str:
    """catalog.c: the tables of types, forms and kernels, and the CPU's feature bits, for all architectures."""
    feature_bits = bits_of_features()

    def kernel_rows(machine: str) -> list[str]:
        return [kernel_row(k, feature_bits) for k in KERNELS if k.isa.machine == machine]

    def attention_rows(machine: str) -> list[str]:
        return [attention_row(k, feature_bits) for k in ATTENTION_KERNELS if k.isa.machine == machine]

    def delta_net_rows(machine: str) -> list[str]:
        return [delta_net_row(k, feature_bits) for k in DELTA_NET_KERNELS if k.isa.machine == machine]

    def rotation_rows(machine: str) -> list[str]:
        return [rotation_row(k, feature_bits) for k in ROTATION_KERNELS if k.isa.machine == machine]

    def feature_rows(machine: str) -> list[str]:
        return [f"    features |= {feature_test(f)} ? 1u << {feature_bits[f]} : 0;" for f in features_asked(machine)]

    names = ", ".join(f'"{name}"' for name in PRECISIONS)
    lines = [
        banner("catalog.py")
        + '#include "interface/arm64_features.h"\n#include "interface/catalog.h"\n#include "interface/x86_features.h"',
        "",
        "const struct tmac_type tmac_types[] = {",
        *map(type_row, TYPES),
        "};",
        "const size_t tmac_type_count = sizeof tmac_types / sizeof tmac_types[0];",
        "",
        f"const char * const tmac_precision_names[] = {{ {names} }};",
        "",
        "const struct tmac_form_sizes tmac_form_sizes[] = {",
        *map(prepared_row, PREPARED.values()),
        "};",
        "",
        "const struct tmac_kernel tmac_kernels[] = {",
        *per_machine(kernel_rows),
        "};",
        "const size_t tmac_kernel_count = sizeof tmac_kernels / sizeof tmac_kernels[0];",
        "",
        "const struct tmac_crossings tmac_crossings[] = {",
        *crossings_rows([*FAMILIES, DEFAULT]),
        "};",
        "",
        f"const uint32_t tmac_cache_ggml_ids[] = {{ {', '.join(str(kind.ggml_id) for kind in CACHE_TYPES)} }};",
        "",
        "const struct tmac_attention_kernel tmac_attention_kernels[] = {",
        *per_machine(attention_rows),
        "};",
        "const size_t tmac_attention_kernel_count = sizeof tmac_attention_kernels / sizeof tmac_attention_kernels[0];",
        "",
        "const struct tmac_delta_net_kernel tmac_delta_net_kernels[] = {",
        *per_machine(delta_net_rows),
        "};",
        "const size_t tmac_delta_net_kernel_count = sizeof tmac_delta_net_kernels / sizeof tmac_delta_net_kernels[0];",
        "",
        "const struct tmac_rotation_kernel tmac_rotation_kernels[] = {",
        *per_machine(rotation_rows),
        "};",
        "const size_t tmac_rotation_kernel_count = sizeof tmac_rotation_kernels / sizeof tmac_rotation_kernels[0];",
        "",
        "uint32_t tmac_cpu_features(void) {",
        "    uint32_t features = 0;",
        *per_machine(feature_rows),
        "    return features;",
        "}",
        "",
    ]
    return "\n".join(lines)


def feature_test(feature: str) -> str:
    """A C expression that is true if the CPU has a feature.

    Some have functions of their own: the operating system must permit AMX, not every compiler knows AVX-VNNI, and every
    system reports arm64 features in its own way.
    """
    if feature.startswith("amx_") or feature in ("avxvnni", "dotprod", "i8mm"):
        return f"tmac_has_{feature}()"
    return f'__builtin_cpu_supports("{feature}")'


def ggml_types_source() -> str:
    """ggml_types.inc: rows for ggml's table of types, one for every T-MAC type."""
    rows = [
        f'    [{t.id:#x}] = {{ .type_name = "{t.ggml_name}", .blck_size = {t.block_weights}, '
        f".type_size = {t.block_bytes}, .is_quantized = true }},"
        for t in TYPES
    ]
    return banner("common/format.py") + "\n".join(rows) + "\n"
