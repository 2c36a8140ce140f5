"""Options shared by all tests."""


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
