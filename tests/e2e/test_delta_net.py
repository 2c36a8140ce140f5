"""Hybrid models in the real binaries: who computes the delta nets, that all give the same logits, slots of a server."""

import io
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support.checkpoints import CHECKPOINTS
from support.server import serving
from support.tiny_models import TEXT, VOCABULARY, array_tensor
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.convert.tokenizer import read_vocabulary
from tmac.convert.write.container import write_gguf
from tmac.kernels import delta_net
from tmac.kernels.delta_net import delta_net_kernels_for
from tmac.kernels.native import library
from tmac.kernels.native_delta_net import NativeDeltaNet
from tmac.tools.bench import random_model
from tmac.tools.bench.hybrid import HybridArchitecture
from tmac.tools.bench.random_model import Recipe, parse_any_type
from tmac.tools.bench.shapes import DeltaNets, Shape
from tmac.tools.llama import run as llama_run
from tmac.tools.llama.verify import all_logits

# Three value heads for each group of keys. Of 8 layers two have attention.
SHAPE = Shape("tiny-hybrid", 256, 512, 4, 1, 64, 8, DeltaNets(2, 6, 64, 4, 4))
# Of logits: what rounding of float32 in eight layers gives. A state that is not kept, or one of another head, gives
# more than 1e-2.
NMSE_LIMIT = 1e-6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random float32 weights, so that nothing is rounded to 8 bits, with the demo's vocabulary."""
    architecture = HybridArchitecture(SHAPE, SHAPE.layers, VOCABULARY)
    vocabulary = read_vocabulary(CHECKPOINTS["w2g64z"], {"bos_token_id": 1, "eos_token_id": 2}, VOCABULARY)
    rng = np.random.default_rng(1)

    def add_metadata(writer):
        architecture.add_metadata(writer)
        vocabulary.add_metadata(writer)

    def in_floats(tensor):
        if tensor.type_name == "f32":
            return tensor
        return array_tensor(tensor.name, np.float32(rng.standard_normal(tensor.shape) / tensor.shape[1] ** 0.5))

    path = tmp_path_factory.mktemp("hybrid") / "hybrid.gguf"
    recipe = Recipe(SHAPE, SHAPE.layers, VOCABULARY, parse_any_type("q8_0"), 1)
    tensors = [in_floats(tensor) for tensor in random_model.tensors(recipe)]
    write_gguf(path, architecture.name, add_metadata, tensors, source="a test's random numbers")
    return path


def logits_of(build, model, *options):
    return all_logits(build, model, TEXT, options)[1].astype(np.float64)


@pytest.fixture(scope="module")
def stock_logits(build, model):
    """A function: options of llama.cpp -> logits with llama.cpp's own delta nets."""
    made = {}

    def get(*options):
        if options not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(delta_net.VARIABLE, delta_net.STOCK)
                made[options] = logits_of(build, model, *options)
        return made[options]

    return get


@pytest.mark.parametrize("batch", [512, 7, 1])
@pytest.mark.parametrize("kernel", delta_net_kernels_for(machine()), ids=lambda kernel: kernel.name)
def test_logits_are_those_of_llama_cpp(build, model, stock_logits, kernel, batch, monkeypatch):
    """Prompts in one piece, in pieces, and token by token: states stay in their place from piece to piece."""
    if not NativeDeltaNet(library()).runs_here(kernel.name):
        pytest.skip(f"this CPU lacks {' '.join(kernel.isa.features)}")
    expected = stock_logits("-ub", str(batch))
    monkeypatch.setenv(delta_net.VARIABLE, kernel.isa.name)
    logits = logits_of(build, model, "-ub", str(batch))
    assert np.isfinite(logits).all() and logits.std() > 0
    assert ((logits - expected) ** 2).sum() / (expected**2).sum() < NMSE_LIMIT


def generate(build, model):
    options = llama_run.Options(n_predict=8, temperature=0)
    return llama_run.generate(build, model, "One morning", options, out=io.BytesIO())


def test_the_fastest_kernel_of_this_cpu_serves_and_is_named(build, model):
    """Also that llama.cpp's graphs have the form in which states need not be copied."""
    said = generate(build, model).kernels
    name = NativeDeltaNet(library()).select()
    assert [line for line in said if line.startswith(delta_net.LINE)] == [f"{delta_net.LINE}{name} (heads of 64)"]
    assert said.count("tmac: the states of delta nets stay in the cache") == 1


def test_stock_leaves_delta_nets_to_llama_cpp(build, model, monkeypatch):
    monkeypatch.setenv(delta_net.VARIABLE, delta_net.STOCK)
    said = generate(build, model).kernels
    assert not any(line.startswith(delta_net.LINE) for line in said)


def test_an_unknown_kernel_is_an_error_that_names_it(build, model, monkeypatch):
    monkeypatch.setenv(delta_net.VARIABLE, "nonsense")
    with pytest.raises(TmacError) as error:
        generate(build, model)
    assert "TMAC_DELTA_NET=nonsense: no delta net kernel or instruction set has this name" in str(error.value)


# With the same end, so that what comes next differs by the states only, and by what attention reads.
PROMPTS = ("One morning, Mia had a lamp", "The dog was not a lamp", "She went to the forest with her lamp")
# Of the logarithms of probabilities: kernels for several tokens round otherwise. Measured: 0.016.
ROUNDING = 0.04


def continued(server, prompt):
    """Logarithms of the probabilities of all tokens, at each of six places of the text: float64 [6, vocabulary]."""
    body = {"prompt": prompt, "n_predict": 6, "temperature": 0, "ignore_eos": True, "n_probs": VOCABULARY}
    places = server.ask("/completion", body)["completion_probabilities"]
    by_token = [sorted((each["id"], each["logprob"]) for each in place["top_logprobs"]) for place in places]
    return np.array([[logarithm for _, logarithm in place] for place in by_token])


@pytest.fixture(scope="module")
def alone(build, model):
    """What each prompt gives in a server with one slot."""
    with serving(build, model, "--parallel", "1") as server:
        return [continued(server, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("slots", [2, 3])
def test_slots_do_not_mix_their_states(build, model, alone, slots):
    """Prompts at once, and again in other slots: states are copied and moved, and each text is that of one slot."""
    first = [places[0] for places in alone]
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(first, 2)) > 3 * ROUNDING
    with serving(build, model, "--parallel", str(slots)) as server, ThreadPoolExecutor(len(PROMPTS)) as pool:
        for order in itertools.permutations(range(len(PROMPTS))):
            found = pool.map(lambda i: continued(server, PROMPTS[i]), order)
            assert max(np.abs(places - alone[i]).max() for i, places in zip(order, found)) < ROUNDING


def test_a_chat_is_answered(build, model):
    """Through the chat template of the server, with the states of the prompt kept for the next turn."""
    turns = [{"role": "user", "content": "Tell me of Mia"}]
    with serving(build, model, "--parallel", "2") as server:
        for _ in range(2):
            body = {"messages": turns, "max_tokens": 8, "temperature": 0}
            answer = server.ask("/v1/chat/completions", body)["choices"][0]["message"]
            assert answer["role"] == "assistant"
            turns += [{"role": "assistant", "content": answer["content"] or "-"}, {"role": "user", "content": "And?"}]
