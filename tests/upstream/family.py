"""The families of models that T-MAC has itself, for comparisons of all of them with llama.cpp's graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from support.llama_tree import LlamaTree
from support.tiny_checkpoints import BASE
from support.tiny_families import MODELS
from upstream import ours

ARCH_CPP, MODEL_CPP, GRAPHS = "src/llama-arch.cpp", "src/llama-model.cpp", "src/models/*.cpp"
# Graphs that facts are of, or that are changed to see that a comparison notices.
QWEN2, QWEN3, QWEN3MOE, LLAMA, PHI3, GEMMA3, BITNET_CPP, OLMOE = (
    f"src/models/{name}.cpp" for name in ("qwen2", "qwen3", "qwen3moe", "llama", "phi3", "gemma3", "bitnet", "olmoe")
)


@functools.cache
def instances() -> dict[str, object]:
    """Architectures by name: those of the tests' tiny configurations, which are of all families."""
    configs = {tiny.name: tiny.full_config for tiny in MODELS}
    for name, activation in (("BitNetForCausalLM", ours.bitnet.SQUARED_RELU), ("BitnetForCausalLM", "silu")):
        configs[name] = {**BASE, "architectures": [name], "hidden_act": activation, "tie_word_embeddings": True}
    return {
        name: ours.architectures.ARCHITECTURES[config["architectures"][0]](config, Path("config.json"))
        for name, config in configs.items()
    }


def graph_of(family) -> str:
    return f"src/models/{family.name}.cpp"


def each(check: Callable) -> Callable:
    """A check of all families: the function is called with the tree and a family."""

    # Fact.row names the module of a check.
    @functools.wraps(check)
    def all_families(llama: LlamaTree) -> Iterator[str]:
        for name, family in instances().items():
            for found in check(llama, family):
                yield f"{name} ({graph_of(family)}): {found}"

    return all_families
