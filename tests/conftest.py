"""Options shared by all tests."""

import os

from tmac.tools.arguments import minutes
from tmac.tools.crossings import SKIP

# Options that choose one file of tests, in its long form.
ALONE = {"--upstream": "test_upstream_suite.py", "--soak": "test_soak.py"}


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden and the table of patches/README.md from what they are made of",
    )
    parser.addoption(
        "--target",
        default="native",
        metavar="NAME",
        help="whose kernels the tests of tests/kernels compute with: native (default), arm64, arm64-asan, asan or tsan",
    )
    parser.addoption(
        "--upstream",
        action="store_const",
        const=True,
        help="only llama.cpp's own tests on the patched tree, all that need no network",
    )
    parser.addoption(
        "--soak",
        type=minutes,
        metavar="MINUTES",
        help="only a server that eight clients use for so long: streams, cancelled and read on",
    )


def pytest_configure(config):
    # Which kernels serve must not depend on what else the machine does.
    os.environ[SKIP] = "1"
    config.addinivalue_line("markers", "whole_upstream: a long test of llama.cpp's own, only run by --upstream")


def pytest_collection_modifyitems(config, items):
    """Long tests of llama.cpp's own run only when they are asked for, and then no others do but its quick ones; asked
    for the long form of a test, only that.
    """
    asked = [name for option, name in ALONE.items() if config.getoption(option) is not None]

    def stays(item):
        return item.path.name in asked if asked else not item.get_closest_marker("whole_upstream")

    left_out = [item for item in items if not stays(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if stays(item)]
