"""Runs a test that takes `kernel` once per GEMV kernel of the target's machine, `gemm_kernel` once per GEMM kernel,
`attention_kernel` once per attention kernel,
`rotation_kernel` once per rotation kernel, `delta_net_kernel` once per kernel of delta nets.

The test id is the kernel's name.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from support import targets
from tmac.common.format import BITS, SYMMETRIC, ZEROS
from tmac.kernels.attention import attention_kernels_for
from tmac.kernels.catalog import kernels_for
from tmac.kernels.delta_net import delta_net_kernels_for
from tmac.kernels.native import library as load
from tmac.kernels.native_attention import NativeAttention
from tmac.kernels.native_delta_net import NativeDeltaNet
from tmac.kernels.native_rotation import NativeRotations
from tmac.kernels.rotation import rotation_kernels_for
from tmac.kernels.worker import TARGETS, Worker
from tmac.kernels.worker.attention import WorkerAttention
from tmac.kernels.worker.delta_net import WorkerDeltaNet
from tmac.kernels.worker.rotation import WorkerRotations

# GEMM kernels of a file share all that reads weights: a ragged last block, whole blocks, one scale for all columns. And
# what has files or grids of its own: minima, 5 and 6 bits, groups of 16, each way in which levels lie.
SANITIZED_KINDS = {(32, ZEROS), (128, SYMMETRIC), (0, SYMMETRIC)}
SANITIZED_TYPES = {"w5g32m", "w2g16km", "w5g32km", "w6g16k"}


def pytest_configure(config):
    name = config.getoption("--target")
    if name not in targets.NAMES:
        raise pytest.UsageError(f"--target {name}: expected {', '.join(targets.NAMES)}")
    targets.choose(name)
    config.addinivalue_line("markers", "targets(*names): a test of these targets only")
    config.addinivalue_line("markers", "only_precision(*names): `kernel` is one of these precisions")
    config.addinivalue_line("markers", "only_form(*names): `gemm_kernel` is one of these forms")
    config.addinivalue_line("markers", "only_type(*names): the kernel is of one of these types")


def is_checked_in_memory(kind):
    return kind.name in SANITIZED_TYPES or (kind.bits <= max(BITS) and (kind.group, kind.grid) in SANITIZED_KINDS)


def pytest_generate_tests(metafunc):
    for fixture, method in (("kernel", "gemv"), ("gemm_kernel", "gemm")):
        if fixture in metafunc.fixturenames:
            kernels = [kernel for kernel in kernels_for(targets.target_machine()) if kernel.method == method]
            if only := metafunc.definition.get_closest_marker("only_precision"):
                kernels = [kernel for kernel in kernels if kernel.precision in only.args]
            if only := metafunc.definition.get_closest_marker("only_form"):
                kernels = [kernel for kernel in kernels if kernel.form in only.args]
            if only := metafunc.definition.get_closest_marker("only_type"):
                kernels = [kernel for kernel in kernels if kernel.type.name in only.args]
            if method == "gemm" and targets.is_sanitized():
                kernels = [kernel for kernel in kernels if is_checked_in_memory(kernel.type)]
            metafunc.parametrize(fixture, kernels, ids=lambda k: k.name, indirect=True)
    others = {
        "attention_kernel": attention_kernels_for,
        "delta_net_kernel": delta_net_kernels_for,
        "rotation_kernel": rotation_kernels_for,
    }
    for fixture, kernels_of in others.items():
        if fixture in metafunc.fixturenames:
            kernels = kernels_of(targets.target_machine())
            metafunc.parametrize(fixture, kernels, ids=lambda k: k.name, indirect=True)


def pytest_collection_modifyitems(config, items):
    """For a target other than native, keeps only tests that compute with its kernels. Tests of the worker need such a
    target.
    """

    def belongs(item):
        if "kernels" not in item.path.parts:
            return True
        if only := item.get_closest_marker("targets"):
            return targets.chosen() in only.args
        if targets.chosen() == targets.NATIVE:
            return "worker" not in item.fixturenames
        return "library" in item.fixturenames

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = [item for item in items if belongs(item)]


@pytest.fixture(scope="session")
def library():
    if targets.chosen() == targets.NATIVE:
        yield load()
        return
    target = TARGETS[targets.chosen()]
    if obstacle := target.obstacle():
        pytest.skip(obstacle)
    worker = Worker(target)
    yield worker
    worker.close()


@pytest.fixture
def worker(library):
    return library


def kernel_that_runs(request, kernels):
    """The parameter of a fixture, a kernel, if the target's CPU can run it."""
    if not kernels.runs_here(request.param.name):
        pytest.skip(f"this CPU lacks {' '.join(request.param.isa.features)}")
    return request.param


@pytest.fixture
def kernel(request, library):
    return kernel_that_runs(request, library)


gemm_kernel = kernel


@pytest.fixture(scope="session")
def attention(library):
    """The attention kernels of the target: NativeAttention or WorkerAttention."""
    return NativeAttention(library) if targets.chosen() == targets.NATIVE else WorkerAttention(library)


@pytest.fixture
def attention_kernel(request, attention):
    return kernel_that_runs(request, attention)


@pytest.fixture(scope="session")
def delta_net(library):
    """The kernels of delta nets of the target: NativeDeltaNet or WorkerDeltaNet."""
    return NativeDeltaNet(library) if targets.chosen() == targets.NATIVE else WorkerDeltaNet(library)


@pytest.fixture
def delta_net_kernel(request, delta_net):
    return kernel_that_runs(request, delta_net)


@pytest.fixture(scope="session")
def rotations(library):
    """The rotation kernels of the target: NativeRotations or WorkerRotations."""
    return NativeRotations(library) if targets.chosen() == targets.NATIVE else WorkerRotations(library)


@pytest.fixture
def rotation_kernel(request, rotations):
    return kernel_that_runs(request, rotations)


@dataclass(frozen=True)
class Attend:
    """A kernel in one of its two ways: few rows (queries * heads that share a KV head) are streamed, many are tiled."""

    attention: NativeAttention
    name: str
    is_tiled: bool

    def queries(self, group=1):
        """So few, or so many, that it goes this way with `group` query heads for a KV head."""
        least = -(-self.attention.row(self.name).tiled_from_rows // group)
        if not self.is_tiled and least == 1:
            pytest.skip(f"{self.name} tiles {group} rows")
        return least if self.is_tiled else min(2, least - 1)

    def plan(self, inputs):
        return self.attention.plan(self.name, inputs)

    def orders(self, inputs):
        """Arguments of the call with which its items are computed in another order."""
        if targets.chosen() != targets.NATIVE:
            return [{"threads": threads} for threads in (1, 2, 5)]
        items = np.arange(self.plan(inputs).items)
        return [{"order": items[::-1]}, {"order": np.random.default_rng(1).permutation(items)}]

    def __call__(self, inputs, **how):
        assert self.plan(inputs).is_tiled == self.is_tiled
        return self.attention.attend(self.name, inputs, **how)

    def check(self, some):
        some.check(self(some.inputs), is_streamed=not self.is_tiled)


@pytest.fixture(params=[False, True], ids=["few_rows", "many_rows"])
def attend(request, attention, attention_kernel):
    return Attend(attention, attention_kernel.name, request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)
