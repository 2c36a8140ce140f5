"""Which kernel serves: by CPU features, by force, and never quietly another one."""

import functools
import itertools
import operator

import pytest

from tmac.kernels.catalog import TYPES, kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import machine
from tmac.kernels.spec import WeightType

ROWS = kernels_for(machine())


@pytest.mark.parametrize("weight_type", TYPES, ids=lambda t: t.name)
def test_first_row_that_the_cpu_covers(library, weight_type):
    """For each set of instruction sets that a CPU may have: the first row of the catalog whose features it covers."""
    rows = [k for k in ROWS if k.type == weight_type]
    needs = {k.name: library.row(k.name).cpu_features for k in rows}
    for count in range(1, len(rows) + 1):
        for present in itertools.combinations(rows, count):
            features = functools.reduce(operator.or_, (needs[k.name] for k in present))
            assert library.select(weight_type, cpu_features=features) == present[0].name


def test_no_features_leaves_the_portable_kernel(library):
    assert library.select(TYPES[0], cpu_features=0) == f"tmac_gemv_{TYPES[0].name}_scalar"


def test_forced_kernel_by_name_and_by_instruction_set(library, kernel):
    assert library.select(kernel.type, kernel.name) == kernel.name
    assert library.select(kernel.type, kernel.isa.name) == kernel.name


def test_forced_kernel_binds_only_its_type(library):
    forced = ROWS[-1]
    other = next(t for t in TYPES if t != forced.type)
    assert library.select(other, forced.name) == library.select(other)


def test_unknown_name_is_an_error(library):
    with pytest.raises(KernelError, match="TMAC_KERNEL=sse9: no kernel or instruction set has this name"):
        library.select(TYPES[0], "sse9")


@pytest.mark.parametrize("forced", [ROWS[0].name, ROWS[0].isa.name])
def test_forcing_what_the_cpu_lacks_is_an_error(library, forced):
    with pytest.raises(KernelError, match=f"TMAC_KERNEL={forced}: this CPU lacks the instructions"):
        library.select(ROWS[0].type, forced, cpu_features=0)


def test_type_without_kernel_is_an_error(library):
    with pytest.raises(KernelError, match="no kernel serves type 0x22f"):
        library.select(WeightType.parse("w2t"))


def test_catalog_in_c_is_the_catalog_in_python(library):
    assert [row.name.decode() for row in library.rows] == [k.name for k in ROWS]
