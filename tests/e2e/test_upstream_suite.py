"""llama.cpp's own tests on the patched tree: those that need no network. `tmac test --upstream` runs them all, and
every run of the tests the quick ones. They are compiled in the folder of the one build.
"""

import importlib.util
import subprocess

import pytest

from support.float_twin import F32, in_floats
from support.upstream_server import REQUIREMENTS, outcomes
from tmac.common import process

# program -> its arguments; MODEL and MODELS stand for a model of ours and for the folder of test-llama-archs' models.
QUICK = {
    "test-log": "",
    "test-gguf": "",
    "test-alloc": "",
    "test-batch-alloc": "",
    "test-quantize-fns": "",
    "test-tmac": "",
    "test-thread-safety": "-m MODEL -p Once -n 16 -c 128 -ub 32 -np 2 -t 2",
    "test-state-restore-fragmented": "-m MODEL",
    "test-save-load-state": "-m MODEL",
}
WHOLE = {
    "test-barrier": "",
    "test-rope": "",
    "test-tiled-mulmat": "",
    "test-opt": "",
    "test-llama-archs": "-s 1",
    "test-recurrent-state-rollback": "--models MODELS",
    "test-save-load-state": "--models MODELS",
}
# Operations that our plugin computes wherever they are: all cases of test-backend-ops against llama.cpp's reference.
OPERATIONS = ("GATED_DELTA_NET", "SSM_CONV", "FLASH_ATTN_EXT")
# Server tests that compare what one prompt gives in batches of different sizes. Other kernels serve those, whose
# rounding differs, and this tiny model is often undecided. In exact precision all sizes are rounded alike.
BY_BATCH = ("stream_vs_non_stream", "with_tokens_input", "n_probs_post_backend_sampling")
whole = pytest.mark.whole_upstream
# A hang is a failure. Seconds; the longest takes some minutes.
PATIENCE = 1800


@pytest.fixture(scope="module")
def models(compiled, tmp_path_factory):
    """A folder with a small model of each architecture."""
    folder = tmp_path_factory.mktemp("architectures")
    process.run([compiled("test-llama-archs"), "-s", "1", "-o", folder], log=folder / "log")
    (folder / "log").unlink()
    return folder


def run(command, folder):
    """In a folder of its own, because some leave files behind."""
    log = folder / "log"
    with log.open("wb") as file:
        done = subprocess.run(
            list(map(str, command)), cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PATIENCE
        )
    last = log.read_text("utf-8", "replace").splitlines()[-20:]
    assert done.returncode == 0, "\n".join([f"exit code {done.returncode}", *last])


@pytest.mark.parametrize("name", QUICK)
def test_quick(compiled, converted, tmp_path, name):
    arguments = [converted("w2g64z") if word == "MODEL" else word for word in QUICK[name].split()]
    run([compiled(name), *arguments], tmp_path)


@whole
@pytest.mark.parametrize("name", WHOLE)
def test_whole(compiled, models, tmp_path, name):
    arguments = [models if word == "MODELS" else word for word in WHOLE[name].split()]
    run([compiled(name), *arguments], tmp_path)


@whole
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_that_we_compute(compiled, tmp_path, operation):
    run([compiled("test-backend-ops"), "test", "-b", "CPU", "-o", operation], tmp_path)


@whole
def test_server_serves_our_types_as_floats(llama_tree, build, converted, tmp_path):
    """llama-server's own tests fail and pass alike with a model in a type of ours and with its twin in float32."""
    missing = [name for name in REQUIREMENTS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed, which llama.cpp's server tests import: {', '.join(missing)}")
    model = converted("w2g64z")
    twin = in_floats(model, tmp_path / "floats.gguf", F32)
    folder, server = llama_tree / "tools" / "server" / "tests", build.binary("llama-server")

    def ask(path, name, only=(), **variables):
        return outcomes(folder, server, path, tmp_path / f"{name}.log", only, **variables)

    def different():
        return {name for name in ours | floats if ours.get(name) != floats.get(name)}

    ours, floats = ask(model, "ours"), ask(twin, "floats")
    assert sum(outcome == "passed" for outcome in floats.values()) > 50
    # Some wait for a server by the clock: on a machine that was busy, time alone may have made the difference.
    if once_more := sorted(different()):
        ours |= ask(model, "ours-again", once_more)
        floats |= ask(twin, "floats-again", once_more)
    assert {name for name in different() if not name.endswith(BY_BATCH)} == set()
    by_batch = [name for name in floats if name.endswith(BY_BATCH)]
    assert len(by_batch) >= len(BY_BATCH)
    assert ask(model, "exact", by_batch, TMAC_PRECISION="exact") == {name: floats[name] for name in by_batch}
