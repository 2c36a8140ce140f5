"""Which kernel dispatch chooses: by CPU features, or by a forced name, and never silently another one."""

import functools
import itertools
import operator
from dataclasses import replace

import pytest

from support.targets import target_machine
from tmac.common.format import TYPES, parse_type
from tmac.kernels.catalog import kernels_for, least_tokens
from tmac.kernels.crossings import DEFAULT, FAMILIES, Crossings, applied
from tmac.kernels.errors import KernelError
from tmac.kernels.forms import PRECISIONS
from tmac.kernels.spec import KernelSpec

ROWS = [kernel for kernel in kernels_for(target_machine()) if kernel.method == "gemv"]
GEMM_ROWS = [kernel for kernel in kernels_for(target_machine()) if kernel.method == "gemm"]


TYPE = parse_type("w2g64z")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("weight_type", TYPES, ids=lambda t: t.name)
def test_first_row_that_the_cpu_covers(library, weight_type, precision):
    """For each set of instruction sets that a CPU may have: the first row of the catalog whose features it has."""
    rows = [k for k in ROWS if (k.type, k.precision) == (weight_type, precision)]
    needs = {k.name: library.row(k.name).cpu_features for k in rows}
    for count in range(1, len(rows) + 1):
        for present in itertools.combinations(rows, count):
            features = functools.reduce(operator.or_, (needs[k.name] for k in present))
            best = next(k for k in rows if not needs[k.name] & ~features)
            assert library.select(weight_type, cpu_features=features, precision=precision) == best.name
            assert rows.index(best) <= rows.index(present[0])


WITHOUT_FAST = [t for t in TYPES if not any((k.type, k.precision) == (t, "fast") for k in ROWS)]


@pytest.mark.parametrize("tokens", [1, 64])
@pytest.mark.parametrize("weight_type", WITHOUT_FAST, ids=lambda t: t.name)
def test_types_without_fast_kernels_are_served_by_rounded_ones(library, weight_type, tokens):
    """`--precision fast` is for a whole model, whose types may differ."""
    found = library.select(weight_type, precision="fast", tokens=tokens)
    assert found == library.select(weight_type, precision="rounded", tokens=tokens)


def test_no_features_leaves_what_every_cpu_has(library):
    """Plain C on x86-64, NEON on arm64."""
    isa = "neon" if target_machine() == "arm64" else "scalar"
    assert library.select(TYPE, cpu_features=0) == f"tmac_gemv_w2g64z_tables_{isa}"


def test_forced_kernel_by_name_and_by_instruction_set(library, kernel):
    assert library.select(kernel.type, kernel.name) == kernel.name
    assert library.select(kernel.type, kernel.isa.name, precision=kernel.precision) == kernel.name


def test_forced_kernel_brings_its_own_precision(library, kernel):
    for precision in PRECISIONS:
        assert library.select(kernel.type, kernel.name, precision=precision) == kernel.name


LACKING_FAST = [isa for isa in dict.fromkeys(k.isa for k in ROWS) if "fast_tables" not in isa.gemv_forms]


@pytest.mark.parametrize("isa", LACKING_FAST, ids=lambda isa: isa.name)
def test_instruction_set_without_the_precision_is_an_error(library, isa):
    features = library.row(KernelSpec(TYPE, isa, "gemv", "tables").name).cpu_features
    with pytest.raises(KernelError, match=f"TMAC_KERNEL={isa.name}: no kernel .* type 0x223 with fast precision"):
        library.select(TYPE, isa.name, cpu_features=features, precision="fast")


def test_forced_kernel_binds_only_its_type(library):
    forced = ROWS[-1]
    other = next(t for t in TYPES if t != forced.type)
    assert library.select(other, forced.name) == library.select(other)


def test_unknown_name_is_an_error(library):
    with pytest.raises(KernelError, match="TMAC_KERNEL=sse9: no kernel or instruction set has this name"):
        library.select(TYPE, "sse9")


@pytest.mark.skipif(not ROWS[0].isa.features, reason="every CPU of this architecture has what its kernels need")
@pytest.mark.parametrize("forced", [ROWS[0].name, ROWS[0].isa.name])
def test_forcing_what_the_cpu_lacks_is_an_error(library, forced):
    with pytest.raises(KernelError, match=f"TMAC_KERNEL={forced}: this CPU lacks the instructions"):
        library.select(ROWS[0].type, forced, cpu_features=0)


def test_type_without_kernel_is_an_error(library):
    with pytest.raises(KernelError, match="no kernel serves type 0x22e with rounded precision"):
        library.select(UnknownType())


class UnknownType:
    id = 0x22E


def test_catalog_in_c_is_the_catalog_in_python(library):
    """The kernels of the architecture come first, in catalog order, then those for any architecture."""
    rows = sorted(kernels_for(target_machine()), key=lambda kernel: kernel.isa.machine == "any")
    assert [row.name.decode() for row in library.rows] == [k.name for k in rows]


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8, 16, 33, 512])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("weight_type", TYPES, ids=lambda t: t.name)
def test_first_kernel_that_serves_so_many_tokens(library, weight_type, precision, tokens):
    """The first kernel that serves this number of tokens, among the CPU's instruction sets, which may be a GEMV, as for
    one token. `fast` uses the rounded GEMMs, and where a type has no fast GEMV, the rounded ones.
    """
    wanted = "rounded" if precision == "fast" else precision
    of_type = [k for k in kernels_for(target_machine()) if k.type == weight_type]
    alone = precision if any(k.precision == precision for k in of_type) else wanted
    rows = [k for k in of_type if k.precision == (wanted if k.method == "gemm" else alone)]
    needs = {k.name: library.row(k.name).cpu_features for k in rows}
    if not rows:
        with pytest.raises(KernelError, match=f"no kernel serves type {weight_type.id:#x} with {wanted} precision"):
            library.select(weight_type, precision=precision, tokens=tokens)
        return
    for features in {0, *needs.values()}:
        best = next(k for k in rows if not needs[k.name] & ~features and 0 < least_tokens(k) <= tokens)
        chosen = library.select(weight_type, cpu_features=features, precision=precision, tokens=tokens)
        assert chosen == best.name


def test_a_table_decides_from_how_many_tokens_on(library):
    """Where no GEMM kernel of the best instruction set serves yet, its GEMV kernel does: not one of a slower set."""
    isa = next(kernel.isa for kernel in ROWS if kernel.isa in {other.isa for other in GEMM_ROWS})
    name = "tmac_{}_w2g64z_{}_" + isa.name
    features = library.row(name.format("gemv", "tables")).cpu_features
    numbers = {(isa.name, form): {"w2": 0} for form in isa.gemm_forms}
    table = Crossings("test", numbers=numbers | {(isa.name, "int8"): {"w2": 8}, (isa.name, "tables"): {"w2": 5}})
    for tokens, expected in ((1, "gemv_tables"), (4, "gemv_tables"), (5, "gemm_tables"), (8, "gemm_int8")):
        chosen = library.select(TYPE, cpu_features=features, tokens=tokens, crossings=table)
        first = next(form for form in isa.gemm_forms if form in ("int8", "tables"))
        expected = expected if first == "int8" or tokens < 8 else "gemm_tables"
        assert chosen == name.format(*expected.split("_"))


def test_the_table_of_a_cpu(library):
    """Tables for some CPUs count on these, and only where the CPU has the instruction set; then what was measured."""
    measured = Crossings("measured", ("Maker 1 2",), "scalar")
    assert (
        applied("Maker 1 2", ["scalar"], measured) is measured and applied("Maker 1 3", ["scalar"], measured) is DEFAULT
    )
    assert applied("Maker 1 2", [], measured) is DEFAULT
    anywhere = replace(measured, isa=None)
    assert applied("Maker 1 2", [], anywhere) is anywhere
    for table in FAMILIES:
        for cpu in table.cpus:
            assert applied(cpu, [table.isa]) is table and applied(cpu, ["scalar"]) is DEFAULT


def test_forced_gemm(library, gemm_kernel):
    """A name forces even a kernel that is never chosen otherwise; an instruction set keeps its number of tokens."""
    name, weight_type, precision = gemm_kernel.name, gemm_kernel.type, gemm_kernel.precision
    assert library.select(weight_type, name, tokens=2) == name
    assert library.select(weight_type, name, tokens=1) == library.select(weight_type, tokens=1)
    if least := least_tokens(gemm_kernel):
        found = library.select(weight_type, gemm_kernel.isa.name, precision=precision, tokens=least)
        assert KernelSpec.parse(found).isa == gemm_kernel.isa


def test_a_forced_gemv_leaves_prompts_to_the_usual_kernel(library, kernel):
    assert library.select(kernel.type, kernel.name, tokens=9) == library.select(kernel.type, tokens=9)
