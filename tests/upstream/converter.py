"""Which architectures llama.cpp's own converter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from support.llama_tree import LlamaTree
from upstream import ours
from upstream.fact import Fact, new_and_gone

TABLE, BASE, CLASSES = "conversion/__init__.py", "conversion/base.py", "conversion/*.py"
# What else it looks for beside config.json: text for people, weights of drafts in another format, Mistral's own naming,
# and folders of what hears, speaks, or comes after the pooling.
UNREAD = (
    "README.md",
    "mask_embedding.pt",
    "params.json",
    "model.safetensors.index.json",
    "audio_tokenizer",
    "speech_tokenizer",
    "1_Dense",
)


def check_models(llama: LlamaTree) -> Iterator[str]:
    tree = ast.parse(llama.raw(TABLE))
    named = (node for node in tree.body if isinstance(node, ast.AnnAssign) and node.target.id == "TEXT_MODEL_MAP")
    theirs = set(ast.literal_eval(next(named).value))
    yield from new_and_gone("architecture of its converter", theirs, ours.upstream_models.known_to_upstream(), ())


def check_whole(llama: LlamaTree) -> Iterator[str]:
    found = re.search(r"ModelType\.TEXT and arch in \(([^)]*)\)", llama.raw(BASE))
    theirs = set(re.findall(r'"(\w+)"', found[1])) if found else set()
    yield from new_and_gone("architecture that goes before its text part", theirs, ours.upstream_models.WHOLE, ())


def check_files(llama: LlamaTree) -> Iterator[str]:
    texts = map(llama.raw, llama.paths(CLASSES))
    theirs = {name for text in texts for name in re.findall(r"dir_model / [\"']([^\"']+)[\"']", text)}
    yield from new_and_gone("file that it reads", theirs, filter(ours.inputs.is_settings, theirs), UNREAD)


FACTS = [
    Fact(
        "architectures that llama.cpp's converter knows",
        [ours.upstream_models],
        TABLE,
        check_models,
        [(TABLE, '"ApertusForCausalLM"', '"ApertusForNothing"')],
    ),
    Fact(
        "architectures whose text part has a name of its own that does not count",
        [ours.upstream_models],
        BASE,
        check_whole,
        [(BASE, '"StepVLForConditionalGeneration", ', "")],
    ),
    Fact(
        "files of a checkpoint that its classes open",
        [ours.upstream_models],
        CLASSES,
        check_files,
        [(BASE, 'dir_model / "modules.json"', 'dir_model / "parts.json"')],
    ),
]
