"""The worker process: it runs the target's own kernels, splits work over threads, and its sanitizers report errors."""

from dataclasses import replace

import numpy as np
import pytest

from support.attention import case
from support.matrices import make
from support.targets import target_machine
from tmac.common.format import parse_type
from tmac.kernels.activations import Activations
from tmac.kernels.catalog import gemv_isas_for, isas_for, kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.spec import KernelSpec
from tmac.kernels.worker import Worker, WorkerError

ELF_MACHINE = {"x86_64": 62, "arm64": 183}
TYPE = parse_type("w4g32z")
ROWS, COLS = 64, 128


def test_kernels_are_those_of_the_target(worker):
    """The kernel names that tests use come from the worker program, which was compiled for the target's CPU."""
    assert [row.name.decode() for row in worker.rows] == [
        kernel.name for kernel in sorted(kernels_for(target_machine()), key=lambda kernel: kernel.isa.machine == "any")
    ]
    program = worker.path.read_bytes()
    assert program[:4] == b"\x7fELF" and int.from_bytes(program[18:20], "little") == ELF_MACHINE[target_machine()]


def test_threads_build_tables_and_share_tiles(worker, kernel, rng):
    """Threads build parts of the tables, wait for each other, then compute parts of the tiles: the result is that of
    one thread.
    """
    rows, cols = 96, 4 * kernel.type.block_weights
    matrix, x = make(kernel.type, rows, cols, rng), np.float32(rng.standard_normal(cols))
    tables = worker.prepare(kernel.name, x)
    y = worker.product(kernel.name, matrix.packed, rows, cols, x[None])[0]
    assert np.array_equal(y, worker.gemv(kernel.name, matrix.packed, rows, cols, tables))


def test_threads_prepare_tokens_and_share_tiles(worker, gemm_kernel, rng):
    """The same for several tokens."""
    name, rows, cols = gemm_kernel.name, 96, 4 * gemm_kernel.type.block_weights
    matrix, x = make(gemm_kernel.type, rows, cols, rng), np.float32(rng.standard_normal((7, cols)))
    y = worker.product(name, matrix.packed, rows, cols, x)
    prepared = [worker.prepare(name, each) for each in x]
    assert np.array_equal(y, worker.gemm(name, matrix.packed, rows, cols, prepared))


@pytest.fixture(params=gemv_isas_for(target_machine()), ids=lambda isa: isa.name)
def command(request, worker, rng):
    """Multiplies with a kernel of each instruction set; the arguments replace correct ones."""
    name = KernelSpec(TYPE, request.param, "gemv", "tables").name
    if not worker.runs_here(name):
        pytest.skip(f"this CPU lacks {' '.join(request.param.features)}")
    packed = make(TYPE, ROWS, COLS, rng).packed
    y = np.zeros(ROWS, np.float32)
    right = {"packed": packed, "activations": [worker.prepare(name, rng.standard_normal(COLS))], "y": [y]}

    def multiply(parts=((0, 0, 0, 1), (0, 0, 1, 2)), **wrong):
        worker.run(worker.row(name), parts, (ROWS, COLS), **(right | wrong))

    return multiply, right


@pytest.mark.targets("asan", "arm64-asan")
@pytest.mark.parametrize("short", ["weights", "entries", "scales of tables", "y"])
def test_access_beyond_an_array_is_found(command, short):
    """An array is one element shorter than the kernel needs."""
    multiply, right = command
    (tables,), multiplied = right["activations"], dict(right)
    if short == "weights":
        multiplied["packed"] = right["packed"][:-1]
    elif short == "entries":
        multiplied["activations"] = [replace(tables, entries=tables.entries.ravel()[:-1])]
    elif short == "scales of tables":
        multiplied["activations"] = [replace(tables, scale=tables.scale[:-1])]
    else:
        multiplied["y"] = [right["y"][0][:-1]]
    multiply()
    # AddressSanitizer reports a wide access whose first bytes are inside the array as an unknown crash
    with pytest.raises(WorkerError, match="AddressSanitizer: (heap-buffer-overflow|unknown-crash)"):
        multiply(**multiplied)
    multiply()


@pytest.mark.targets("asan", "arm64-asan")
def test_undefined_behaviour_is_found(worker, rng):
    """The plain-C kernel stores floats at an odd address."""
    y = np.zeros(4 * ROWS + 1, np.uint8)[1:].view(np.float32)
    row = worker.row(KernelSpec(TYPE, isas_for(target_machine())[-1], "gemv", "tables").name)
    tables = Activations.empty("tables", COLS)
    with pytest.raises(WorkerError, match="runtime error: store to misaligned address"):
        worker.run(row, [(0, 0, 0, 2)], (ROWS, COLS), [tables], packed=make(TYPE, ROWS, COLS, rng).packed, y=[y])


@pytest.mark.targets("asan")
@pytest.mark.parametrize("short", ["q", "k", "v", "mask", "sinks"])
def test_access_beyond_an_operand_of_attention_is_found(worker, attend, short):
    """It is one number shorter than the kernel needs."""
    inputs = case(queries=attend.queries(2), types=("f16", "q8_0"), sinks=True).inputs
    array = getattr(inputs, short)
    cut = replace(array, data=array.data[..., :-1]) if short in ("k", "v") else array[..., :-1]
    attend(inputs)
    with pytest.raises(WorkerError, match="AddressSanitizer: (heap-buffer-overflow|unknown-crash)"):
        attend(replace(inputs, **{short: cut}))
    attend(inputs)


@pytest.mark.targets("tsan")
def test_race_is_found(command):
    """Two threads compute the same tile."""
    multiply, _ = command
    multiply()
    with pytest.raises(WorkerError, match="ThreadSanitizer: data race"):
        multiply(parts=((0, 0, 0, 2), (0, 0, 1, 2)))
    multiply()


@pytest.mark.targets("arm64")
@pytest.mark.parametrize("cpu, isa", [("cortex-a72", "neon"), ("cortex-a76", "neon_dotprod"), ("max", "neon_i8mm")])
def test_emulated_cpu_is_given_what_it_has(worker, rng, cpu, isa):
    """qemu's Cortex-A72 has no dot products, its Cortex-A76 no matrix products: these kernels are neither chosen nor
    forced.
    """
    if not worker.target.runner:
        pytest.skip("this machine is an arm64 CPU itself")
    emulated = Worker(replace(worker.target, runner=(*worker.target.runner, "-cpu", cpu)))
    names = [each.name for each in isas_for("arm64") if each.name.startswith("neon")]
    name, x = emulated.select(TYPE, tokens=64), np.float32(rng.standard_normal((3, COLS)))
    assert KernelSpec.parse(name).isa.name == isa
    for missing in names[: names.index(isa)]:
        with pytest.raises(KernelError, match=f"TMAC_KERNEL={missing}: this CPU lacks the instructions"):
            emulated.select(TYPE, missing, tokens=64)
    packed = make(TYPE, ROWS, COLS, rng).packed
    assert np.array_equal(emulated.product(name, packed, ROWS, COLS, x), worker.product(name, packed, ROWS, COLS, x))
    emulated.close()
