"""llama-cpp-python, the real package without its own llama.cpp, on the libraries of our build."""

import json
import os
import subprocess
import sys

from tmac.tools.llama import binding

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


def ask(binding_package, model, *, first="", **environment):
    environment = os.environ | {"PYTHONPATH": str(binding_package), "TMAC_LOG": "1"} | environment
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


def test_binding_computes_with_our_kernels(build, converted, binding_package):
    """Text, streaming, chat and grammar."""
    found = str(binding.folder(build))
    check(ask(binding_package, converted("w2g64z"), LLAMA_CPP_LIB_PATH=found))


def test_import_hook_finds_the_build(build, converted, binding_package):
    """`import tmac.python` instead of the variable."""
    check(ask(binding_package, converted("w2g64z"), first="import tmac.python"))


def test_import_hook_comes_first(build, converted, binding_package):
    done = ask(
        binding_package, converted("w2g64z"), first="import types; sys.modules['llama_cpp'] = types; import tmac.python"
    )
    assert done.returncode == 1 and "imported already" in done.stderr and "import tmac.python before" in done.stderr
