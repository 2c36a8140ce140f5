"""Runs llama.cpp's server tests on a model of ours: a pytest plugin (`-p support.upstream_server`), and what starts it.

The tests know their models by names on the hub; those that need no other than the tiny story model take the file in
UPSTREAM_MODEL instead. Nothing is downloaded: tests that would are left out, as are those marked as slow.
"""

import os
import re
import signal
import subprocess
import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# What the server tests import beside pytest; `wget` only downloads models, and is replaced here.
REQUIREMENTS = ("aiohttp", "openai", "prometheus_client", "requests")
DOWNLOADS = ("unit/test_basic.py::test_load_split_model",)
# Where nobody answers, so that a test which downloads all the same fails at once.
NOWHERE = "http://127.0.0.1:9"
# A hang is a failure. Seconds for all tests with one model.
PATIENCE = 1800


def pytest_load_initial_conftests():
    """Before their conftest.py imports it."""
    sys.modules.setdefault("wget", types.ModuleType("wget"))


def pytest_configure(config):
    sys.path.insert(0, str(config.rootpath))
    import utils

    def tiny(original=utils.ServerPreset.tinyllama2):
        server = original()
        server.model_hf_repo = None
        server.model_file = os.environ["UPSTREAM_MODEL"]
        return server

    utils.ServerPreset.tinyllama2 = staticmethod(tiny)
    utils.ServerPreset.load_all = staticmethod(lambda: None)


def modules(folder):
    """The test modules that use no other model, and at least that one."""
    for path in sorted(folder.glob("unit/test_*.py")):
        if set(re.findall(r"ServerPreset\.(\w+)", path.read_text("utf-8"))) == {"tinyllama2"}:
            yield path


def outcomes(folder, server, model, log, only=(), **variables):
    """Name of a test -> "passed", "failed" or "skipped", of all modules with this model. Raises TimeoutExpired.

    `only`: names of some tests, as they are returned; `variables` are set for the server.
    """
    report = log.with_suffix(".xml")
    environment = os.environ | {
        "UPSTREAM_MODEL": str(model),
        "LLAMA_SERVER_BIN_PATH": str(server),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PORT": "8093",
        "HF_ENDPOINT": NOWHERE,
        **variables,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.upstream_server", "-p", "no:cacheprovider"]
    command += [f"--rootdir={folder}", f"--junitxml={report}", "-m", "not slow"]
    command += [
        *(f"--deselect={name}" for name in DOWNLOADS),
        *(map(node, only) if only else map(str, modules(folder))),
    ]
    with open(log, "wb") as file:
        # A session of its own, in which its servers end too.
        tests = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            tests.wait(PATIENCE)
        finally:
            if tests.poll() is None:
                os.killpg(tests.pid, signal.SIGKILL)
                tests.wait()
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return found


def node(name):
    """What pytest is given for a test of that name in its report."""
    function, bracket, parameters = name.partition("[")
    module, _, function = function.rpartition(".")
    return f"{module.replace('.', '/')}.py::{function}{bracket}{parameters}"
