"""Names, ids and sizes of types and kernels, and which forms and instruction sets there are."""

import pytest

from tmac.common.format import TYPES, parse_type
from tmac.kernels import catalog
from tmac.kernels.crossings import BY_INSTRUCTION_SET, COLUMNS, FAMILIES, MOST_TOKENS_TO_CROSS, NUMBERS, column_of
from tmac.kernels.errors import KernelError
from tmac.kernels.forms import PRECISIONS, PREPARED, gemv_form, has_table_gemm
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import METHODS, KernelSpec

SPECS = [
    KernelSpec(t, isa, method, form)
    for t in TYPES
    for isa in ISAS
    for method, forms in METHODS.items()
    for form in forms
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_parse_inverts_name(spec):
    """Every type on every instruction set in every form, whether or not the catalog has it."""
    assert KernelSpec.parse(spec.name) == spec
    assert parse_type(spec.type.name) == spec.type


@pytest.mark.parametrize(
    "name",
    [
        "",
        "w2g64",
        "tmac_gemv_w2g64z",
        "tmac_gemv_w2g48_tables_avx2",
        "tmac_gemv_w5g64_tables_avx2",
        "tmac_gemv_w2g64_tables_sse9",
        "tmac_gemv_w2g64_tables_avx2 ",
        "tmac_gemv_w2g64_rounded_avx2",
        "tmac_gemv_w2g64_avx2",
        "tmac_gemv_w2g64_exact_tables",
        "tmac_gemm_w2g64_fast_tables_avx2",
        "tmac_gemv_w2g64_int8_avx2",
    ],
)
def test_parse_rejects_what_is_no_kernel_name(name):
    with pytest.raises(ValueError, match="kernel name|weight type"):
        KernelSpec.parse(name)


@pytest.mark.parametrize(
    "name, type_id, weights, size",
    [
        ("w1g128", 0x214, 128, 18),
        ("w2g64", 0x222, 64, 18),
        ("w2g64z", 0x223, 64, 19),
        ("w2g128z", 0x225, 128, 35),
        ("w3g128", 0x234, 128, 50),
        ("w4g32", 0x240, 32, 18),
        ("w4g32z", 0x241, 32, 19),
        ("w2t", 0x22F, 32, 8),
        ("w1g128m", 0x218, 128, 20),
        ("w4g32m", 0x246, 32, 20),
        ("w5g32", 0x250, 32, 22),
        ("w5g32m", 0x256, 32, 24),
        ("w2g16km", 0x229, 256, 84),
        ("w3g16k", 0x239, 256, 114),
        ("w4g32km", 0x249, 256, 148),
        ("w5g32km", 0x259, 256, 180),
        ("w6g16k", 0x269, 256, 210),
    ],
)
def test_type_facts_by_hand(name, type_id, weights, size):
    """Ids and block sizes worked out from docs/format.md."""
    t = parse_type(name)
    assert (t.id, t.block_weights, t.block_bytes) == (type_id, weights, size)


@pytest.mark.parametrize(
    "form, column_bytes",
    [
        ("tables", 4),
        ("exact_tables", 8),
        ("trits", 12),
        ("exact_trits", 12),
        ("int8", 1),
        ("exact_int8", 1),
        ("bf16", 2),
    ],
)
def test_bytes_of_prepared_activations_by_hand(form, column_bytes):
    """As docs/kernels.md has them, per column, without scales and sums."""
    assert PREPARED[form].column_bytes == column_bytes


@pytest.mark.parametrize(
    "precision, ternary, form",
    [
        ("rounded", False, "tables"),
        ("exact", False, "exact_tables"),
        ("fast", False, "fast_tables"),
        ("rounded", True, "trits"),
        ("exact", True, "exact_trits"),
        ("fast", True, None),
    ],
)
def test_the_form_of_a_gemv(precision, ternary, form):
    assert gemv_form(precision, ternary) == form


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_instruction_sets_with_gemv_kernels(machine):
    """In the order of the catalog."""
    isas = dict.fromkeys(kernel.isa for kernel in catalog.kernels_for(machine) if kernel.method == "gemv")
    assert catalog.gemv_isas_for(machine) == tuple(isas)


def test_ids_are_unique_and_inside_our_range():
    ids = [t.id for t in TYPES]
    assert len(set(ids)) == len(ids)
    assert all(0x200 <= i < 0x270 for i in ids)


def test_every_type_ends_with_the_portable_kernel():
    """On every CPU, each type of the format has a kernel in every precision; but ternary ones have none in `fast`, and
    those whose prompts are not looked up have only the default.
    """
    for t in TYPES:
        of_gemm = ("rounded", "exact") if has_table_gemm(t) else ("rounded",)
        for precision in of_gemm if t.ternary or not has_table_gemm(t) else PRECISIONS:
            rows = [k for k in catalog.KERNELS if (k.type, k.precision, k.method) == (t, precision, "gemv")]
            assert rows[-1].isa.features == () and rows[-1].isa.machine == "any"
        for precision in of_gemm:
            rows = [k for k in catalog.KERNELS if (k.type, k.precision, k.method) == (t, precision, "gemm")]
            anywhere = [k for k in rows if k.isa.machine == "any" and catalog.least_tokens(k) == 2]
            assert anywhere and anywhere[0].isa.features == ()


def test_crossings_are_of_catalogued_kernels_and_no_others():
    """Every GEMM kernel of the catalog has its least numbers of tokens, within the plugin's range, and what no kernel
    serves has none.
    """
    forms = {(isa.name, form) for isa in ISAS for form in isa.gemm_forms}
    assert forms == set(BY_INSTRUCTION_SET)
    assert all(len(row) == len(COLUMNS) for row in BY_INSTRUCTION_SET.values())
    there = {(k.isa.name, k.form, column_of(k.type)) for k in catalog.KERNELS if k.method == "gemm"}
    for table in (catalog.DEFAULT, *FAMILIES):
        for number, key in zip(table.in_order(), NUMBERS, strict=True):
            assert number == 0 or (key in there and 2 <= number <= MOST_TOKENS_TO_CROSS), key
        assert {(*form, column) for form, row in table.numbers.items() for column in row} <= there


def test_columns_time_a_type_of_their_own():
    assert all(column_of(kind) == column for column, kind in COLUMNS.items())
    assert {column_of(kind) for kind in TYPES} == set(COLUMNS)


def test_unknown_kernel_is_an_error():
    with pytest.raises(KernelError, match="no kernel is called 'nope'") as raised:
        catalog.find("nope")
    assert "tmac kernels list" in raised.value.hint
