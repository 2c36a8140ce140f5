"""Every test that takes `kernel` runs once per catalog row of this architecture, under the kernel's own name."""

import numpy as np
import pytest

from tmac.kernels.catalog import kernels_for
from tmac.kernels.isa import machine
from tmac.kernels.native import library as load


def pytest_generate_tests(metafunc):
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", kernels_for(machine()), ids=lambda k: k.name, indirect=True)


@pytest.fixture(scope="session")
def library():
    return load()


@pytest.fixture
def kernel(request, library):
    if not library.runs_here(request.param.name):
        pytest.skip(f"this CPU lacks {' '.join(request.param.isa.features)}")
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)
