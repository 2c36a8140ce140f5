"""llama-cpp-python, the real package without its own llama.cpp, on the libraries of our build."""

import json
import os
import subprocess
import sys

import pytest

from tmac.common.paths import work_folder
from tmac.tools.llama import binding
from tmac.tools.llama import source as llama_source

# Answers as JSON: a text, the same in pieces, a conversation, what a grammar allows.
PROGRAM = """
import json, sys
{first}
from llama_cpp import Llama, LlamaGrammar

model = Llama(sys.argv[1], n_ctx=256, n_threads=1, seed=1, verbose=False)
ask = lambda **options: model("Once upon a time", max_tokens=24, temperature=0, **options)
print(json.dumps({{
    "text": ask()["choices"][0]["text"],
    "pieces": [piece["choices"][0]["text"] for piece in ask(stream=True)],
    "chat": model.create_chat_completion([{{"role": "user", "content": "hi"}}], max_tokens=8)["choices"][0]["message"],
    "grammar": ask(grammar=LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False))["choices"][0]["text"],
}}))
"""


@pytest.fixture(scope="session")
def package():
    """The folder that the package of the pin's archive was installed into, once; nothing of llama.cpp is compiled."""
    pin = llama_source.read_pin()
    archive = llama_source.download(pin, work_folder() / "downloads")
    folder = work_folder() / f"binding-{pin.version}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / "llama_cpp").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), str(archive)]
        environment = os.environ | {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("*llama*.so"))
    return folder


def ask(package, model, *, first="", **environment):
    environment = os.environ | {"PYTHONPATH": str(package), "TMAC_LOG": "1"} | environment
    command = [sys.executable, "-c", PROGRAM.format(first=first), str(model)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def check(done):
    """The story of the float32 reference, which has a near tie at its first name."""
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert (
        "went to the garden with a tiny golden kite" in answers["text"]
        and "".join(answers["pieces"]) == answers["text"]
    )
    assert len(answers["pieces"]) > 10 and answers["chat"]["content"] and answers["grammar"] in ("yes", "no")
    assert "tmac: 28 x tmac_w2g64z by tmac_gemv_w2g64z_" in done.stderr


def test_binding_computes_with_our_kernels(build, converted, package):
    """Text, streaming, chat and grammar."""
    found = str(binding.folder(build))
    check(ask(package, converted("w2g64z"), LLAMA_CPP_LIB_PATH=found))


def test_import_hook_finds_the_build(build, converted, package):
    """`import tmac.python` instead of the variable."""
    check(ask(package, converted("w2g64z"), first="import tmac.python"))


def test_import_hook_comes_first(build, converted, package):
    done = ask(package, converted("w2g64z"), first="import types; sys.modules['llama_cpp'] = types; import tmac.python")
    assert done.returncode == 1 and "imported already" in done.stderr and "import tmac.python before" in done.stderr
