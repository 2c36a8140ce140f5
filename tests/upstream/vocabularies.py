"""Pre-tokenizers and their expressions, tokens that end a text, special tokens, and the rule for Phi-3."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import gguf

from support.llama_tree import LlamaTree, NotFound, case_groups, strings
from upstream import ours
from upstream.fact import Fact, differences, new_and_gone, words

VOCAB_CPP, ARCH_CPP, UNICODE_CPP, LLAMA_H = (
    "src/llama-vocab.cpp",
    "src/llama-arch.cpp",
    "src/unicode.cpp",
    "include/llama.h",
)
CONVERTER = "conversion/base.py"
# Names of llama.cpp that we give to no tokenizer.json: they split as another name does, or as none that we recognise.
UNUSED_NAMES = words(
    """
    a.x-4.0 afmoe bailingmoe bailingmoe2 chameleon chatglm-bpe codeshell cohere2moe command-r dbrx deepseek-r1-qwen
    default exaone exaone-moe exaone4 f2llmv2 falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt3-finnish
    granite-docling granite-embed-multi-311m grok-2 hunyuan hunyuan-dense hy_v4 jais jina-de jina-es jina-v1-en
    jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe llama-v3
    llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat
    refact roberta-bpe sarvam-moe solar-open spark2_5 stablelm2 starcoder superbpe talkie tiny_aya trillion
    whitespace youtu
    """
)
# GPT-2's expression as llama.cpp has it: what is left over is set apart in any case, so it needs no last part.
GPT2 = ours.pretokenizers._GPT2.removesuffix(r"|\s+")
# A set within a set means the same as one set.
BLOOM = ours.pretokenizers.WORDS["bloom"][0].replace("|[", "|").replace("])]", ")]")
# A step of one of our expressions is a name of WORDS, else it is the expression itself.
EXPRESSIONS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "smaug-bpe": ["llama3"],
    "llama-bpe": ["llama3"],
    "qwen2": ["qwen2"],
    "qwen35": ["qwen35"],
    "minicpm5": [r"\p{N}{1,3}", "minicpm5"],
    "ufakzeka": ["ufakzeka"],
    "jais-2": ["jais2"],
    "seed-coder": ["seed"],
    "bloom": [BLOOM],
    "viking": [BLOOM, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", ours.pretokenizers._KANA, "deepseek3"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ours.pretokenizers._CJK, r"\p{N}"],
    "deepseek-llm": [
        r"[\r\n]",
        ours.pretokenizers._LETTERS,
        ours.pretokenizers._PUNCTUATION,
        r"\s+$",
        ours.pretokenizers._CJK,
        r"\p{N}+",
    ],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
}
# Case by case of letters, which llama.cpp spells by ASCII letters; {0} is what stands for a letter.
_CASED = (
    r"[^\r\n\p{{L}}\p{{N}}]?((?=[{0}])([^a-z]))*((?=[{0}])([^A-Z]))+{1}|"
    r"[^\r\n\p{{L}}\p{{N}}]?((?=[{0}])([^a-z]))+((?=[{0}])([^A-Z]))*{1}|"
    r"{2}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_OPTIONAL = f"{ours.pretokenizers._ENDINGS[2]}?"
EXPRESSIONS |= {
    "tekken": [_CASED.format(r"\p{L}", "", r"\p{N}")],
    "gpt-4o": [_CASED.format(r"\p{L}", _OPTIONAL, r"\p{N}{1,3}")],
    "granite-embed-multi-97m": [_CASED.format(r"\p{L}\p{M}", _OPTIONAL, r"\p{N}{1,3}")],
}


def names_used() -> dict[str, bool]:
    """The names that we write, and whether words that are tokens are then not merged."""
    used = {entry.name: False for entry in ours.pretokenizers.TABLE.values() if entry.name}
    return used | {entry.ignoring: True for entry in ours.pretokenizers.TABLE.values() if entry.ignoring}


def names_known(llama: LlamaTree) -> dict[str, tuple[str, bool]]:
    """llama.cpp's names: its type of pre-tokenizer, and whether it ignores merges."""
    body, found = llama.function(VOCAB_CPP, "llama_vocab::impl::load"), {}
    branches = re.split(r"\belse if\b|\bif\b", body)
    for condition in branches:
        kind = re.search(r"pre_type\s*=\s*LLAMA_VOCAB_PRE_TYPE_(\w+)", condition)
        if kind:
            names = re.findall(r'tokenizer_pre\s*==\s*"([^"]+)"', condition[: kind.start()])
            found |= dict.fromkeys(names, (kind[1], "ignore_merges = true" in condition))
    if not found:
        raise NotFound(f"{VOCAB_CPP} compares tokenizer_pre no longer with names")
    return found


def expressions_known(llama: LlamaTree) -> dict[str, list[str]]:
    """The expressions of each type of pre-tokenizer, one after the other."""
    found = {}
    for labels, code in case_groups(llama.block(VOCAB_CPP, r"\bllm_tokenizer_bpe\(const llama_vocab & vocab\)\s*\{")):
        for label in labels:
            found[label.removeprefix("LLAMA_VOCAB_PRE_TYPE_")] = strings(code)
    return found


def check_names(llama: LlamaTree) -> Iterable[str]:
    return new_and_gone("pre-tokenizer", names_known(llama), names_used(), UNUSED_NAMES)


def check_merging(llama: LlamaTree) -> Iterator[str]:
    known = names_known(llama)
    yield from differences(
        "ignore_merges of pre-tokenizer", {n: known[n][1] for n in names_used() if n in known}, names_used()
    )


def check_expressions(llama: LlamaTree) -> Iterator[str]:
    known, expressions = names_known(llama), expressions_known(llama)
    for name in names_used():
        if name not in known:
            yield f"llama.cpp has no pre-tokenizer {name} any more"
            continue
        theirs = [_normalized(text) for text in expressions.get(known[name][0], [])]
        steps = EXPRESSIONS[name]
        if len(theirs) != len(steps) or not all(text in _spellings(step) for text, step in zip(theirs, steps)):
            copied = [_spellings(step)[-1] for step in steps]
            yield f"llama.cpp's expressions of {name} are now {theirs}; ours are {copied}"


def _spellings(step: str) -> list[str]:
    """All ways to write one expression, without the slashes of TABLE."""
    own = step[1:-1] if step.startswith("/") else step
    return [_normalized(text) for text in ours.pretokenizers.WORDS.get(step, [own])]


def _normalized(expression: str) -> str:
    for spelling in ours.pretokenizers._ENDINGS[:2]:
        expression = expression.replace(spelling, ours.pretokenizers._ENDINGS[2])
    return expression.replace("\r", r"\r").replace("\n", r"\n")


def check_ends(llama: LlamaTree) -> Iterable[str]:
    body = llama.function(VOCAB_CPP, "llama_vocab::impl::load")
    conditions = re.findall(
        r"if\s*\(false((?:(?!\{).)*?)\)\s*\{\s*special_eog_ids\.insert\(t\.second\)", body, re.DOTALL
    )
    if len(conditions) != 1:
        raise NotFound(f"{VOCAB_CPP} lists the tokens that end a text otherwise than before")
    return new_and_gone("token that ends a text", strings(conditions[0]), ours.tokenizer._KNOWN_ENDS, ())


def check_phi3(llama: LlamaTree) -> Iterator[str]:
    body = llama.function(VOCAB_CPP, "llama_vocab::impl::load")
    rule = re.search(r'_contains_any\(model_name, \{("phi[^}]*)\}\)\) \{(.*?)\} else if', body, re.DOTALL)
    if not rule:
        raise NotFound(f"{VOCAB_CPP} has no rule for the special tokens of Phi-3")
    names = strings(rule[1])
    if names != ["phi-3", "phi3"] or not all(ours.vocabulary._PHI3.fullmatch(name) for name in names):
        yield f"llama.cpp knows Phi-3 by {names}; we by {ours.vocabulary._PHI3.pattern}"
    stripping, keeping = re.findall(r"\{([^{}]*)\}\) \{\s*_set_token_attr\(token, LLAMA_TOKEN_ATTR_RSTRIP", rule[2])
    keeps, tokens = (
        {text.decode() for text in texts} for texts in (ours.added_tokens._PHI3_KEEPS, ours.added_tokens._PHI3_TOKENS)
    )
    yield from new_and_gone("token of Phi-3 that keeps spaces", strings(keeping), keeps, ())
    yield from new_and_gone("token that Phi-3 must have", {*strings(stripping), *strings(keeping)}, tokens, ())


def check_models(llama: LlamaTree) -> Iterator[str]:
    body = llama.function(VOCAB_CPP, "llama_vocab::impl::load")
    for name, kind in ((ours.vocabulary.SENTENCEPIECE, "SPM"), (ours.vocabulary.BYTE_LEVEL, "BPE")):
        if not re.search(rf'tokenizer_model == "{name}"[^{{]*\{{\s*type = LLAMA_VOCAB_TYPE_{kind};', body):
            yield f"llama.cpp no longer takes the tokenizer {name!r} as {kind}"
    theirs = llama.enum(LLAMA_H, "llama_token_type")
    package = {f"LLAMA_TOKEN_TYPE_{kind.name}": int(kind) for kind in gguf.TokenType}
    yield from differences("token type", {n: v for n, v in theirs.items() if not n.endswith("UNDEFINED")}, package)
    marked = llama.function(VOCAB_CPP, "llama_escape_whitespace")
    escaped = "".join(f"\\x{byte:02x}" for byte in ours.vocabulary.SPACE_MARK.encode())
    if f'"{escaped}"' not in marked:
        yield f"llama.cpp no longer puts {ours.vocabulary.SPACE_MARK!r} in place of a space"


def check_bytes(llama: LlamaTree) -> Iterator[str]:
    """GPT-2's table of characters for bytes, from the loops that make it."""
    body = llama.function(UNICODE_CPP, "unicode_byte_to_utf8_map")
    ranges = [(int(first, 16), int(last, 16)) for first, last in re.findall(r"ch = (0x\w+); ch <= (0x\w+);", body)]
    visible = {byte for first, last in ranges for byte in range(first, last + 1)}
    if "unicode_cpt_to_utf8(256 + n)" not in body:
        yield "llama.cpp no longer gives the other bytes the characters from U+0100 on"
    copied = ours.bpe.byte_characters()
    others = iter(range(256, 512))
    theirs = [chr(byte if byte in visible else next(others)) for byte in range(256)]
    if theirs != copied:
        byte = next(byte for byte in range(256) if theirs[byte] != copied[byte])
        yield f"llama.cpp now shows byte {byte:#x} as {theirs[byte]!r}; we as {copied[byte]!r}"


def check_keys(llama: LlamaTree) -> Iterator[str]:
    """Every key that a vocabulary writes is read."""
    tokens = [b"a", b"b"]
    kinds = ("bos", "eos", "unk", "sep", "pad", "eot", "eom")
    vocabulary = ours.vocabulary.Vocabulary(
        tokens,
        [1, 1],
        scores=[0.0, 0.0],
        merges=["a b"],
        special_ids=dict.fromkeys(kinds, 0),
        add_flags={"bos": True, "eos": True},
        add_space_prefix=True,
        chat_templates={"default": "{{ x }}"},
    )
    writer = gguf.GGUFWriter(None, "llama")
    vocabulary.add_metadata(writer)
    keys = llama.texts_of(ARCH_CPP, "LLM_KV_NAMES")
    written = set(writer.kv_data[0]) - {gguf.Keys.General.ARCHITECTURE}
    yield from (f"llama.cpp has no key {key}; we write it" for key in sorted(written - set(keys.values())))
    if ours.llama_run.CHAT_TEMPLATE_KEY not in keys.values():
        yield f"llama.cpp has no key {ours.llama_run.CHAT_TEMPLATE_KEY}; we look for it"
    used = set(re.findall(r"\bLLM_KV_\w+", llama.code(VOCAB_CPP)))
    read = {name for key, name in keys.items() if key in used}
    yield from (
        f"llama.cpp's vocabulary no longer reads {key}"
        for key in sorted(written - read - {ours.llama_run.CHAT_TEMPLATE_KEY})
    )


def check_scores(llama: LlamaTree) -> Iterator[str]:
    """Of a token that is not SentencePiece's own: its converter writes a number, else what that library says."""
    found = re.findall(r"scores(?:\[token_id\] = |\.append\()(-[\d.]+)", llama.raw(CONVERTER))
    if {float(number) for number in found} != {ours.vocabulary.ADDED_SCORE}:
        yield f"llama.cpp's converter gives added tokens the scores {found}; we give {ours.vocabulary.ADDED_SCORE}"


FACTS = [
    Fact(
        "names of pre-tokenizers",
        [ours.pretokenizers],
        VOCAB_CPP,
        check_names,
        (
            (VOCAB_CPP, 'tokenizer_pre == "seed-coder"', 'tokenizer_pre == "seed-coders"'),
            (VOCAB_CPP, 'tokenizer_pre == "grok-2"', 'tokenizer_pre == "grok-2" || tokenizer_pre == "grok-5"'),
            (VOCAB_CPP, 'tokenizer_pre == "megrez"', 'tokenizer_pre == "megrez-2"'),
        ),
    ),
    Fact(
        "pre-tokenizers that ignore merges",
        [ours.pretokenizers],
        VOCAB_CPP,
        check_merging,
        ((VOCAB_CPP, "ignore_merges = true", "ignore_merges = false"),),
    ),
    Fact(
        "expressions of pre-tokenizers",
        [ours.pretokenizers],
        VOCAB_CPP,
        check_expressions,
        (
            (VOCAB_CPP, r"\\s{512}(?!\\S)", r"\\s{1024}(?!\\S)"),
            (VOCAB_CPP, '"[0-9][0-9][0-9]"', '"[0-9][0-9]"'),
            (VOCAB_CPP, "[一-龥぀-ゟ゠-ヿ]+", "[一-龥]+"),
            (VOCAB_CPP, r"(?=[\\p{L}\\p{M}])", r"(?=[\\p{L}])"),
            (
                VOCAB_CPP,
                r"\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|",
                r"\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|",
            ),
            (VOCAB_CPP, "            case LLAMA_VOCAB_PRE_TYPE_SMOLLM:\n", ""),
        ),
    ),
    Fact(
        "tokens that end a text",
        [ours.tokenizer],
        VOCAB_CPP,
        check_ends,
        (
            (VOCAB_CPP, '|| t.first == "[e~["', '|| t.first == "[e~[" || t.first == "<|new|>"'),
            (VOCAB_CPP, '|| t.first == "<turn|>"', ""),
        ),
    ),
    Fact(
        "special tokens of Phi-3",
        [ours.added_tokens, ours.vocabulary],
        VOCAB_CPP,
        check_phi3,
        (
            (VOCAB_CPP, '{"phi-3", "phi3"}', '{"phi-3", "phi3", "phi-4"}'),
            (VOCAB_CPP, '{"<unk>", "<s>", "<|endoftext|>"}', '{"<unk>", "<s>"}'),
        ),
    ),
    Fact(
        "kinds of vocabularies and tokens",
        [ours.vocabulary],
        f"{VOCAB_CPP}, {LLAMA_H}",
        check_models,
        (
            (VOCAB_CPP, 'tokenizer_model == "llama"', 'tokenizer_model == "spm"'),
            (LLAMA_H, "LLAMA_TOKEN_TYPE_BYTE         = 6", "LLAMA_TOKEN_TYPE_BYTE = 7"),
            (VOCAB_CPP, 'replace_all(text, " ", "\\xe2\\x96\\x81")', 'replace_all(text, " ", "_")'),
        ),
    ),
    Fact(
        "score of an added token",
        [ours.vocabulary],
        CONVERTER,
        check_scores,
        ((CONVERTER, "scores[token_id] = -1000.0", "scores[token_id] = -100.0"),),
    ),
    Fact(
        "characters that stand for bytes",
        [ours.bpe],
        UNICODE_CPP,
        check_bytes,
        ((UNICODE_CPP, "ch = 0xA1; ch <= 0xAC", "ch = 0xA1; ch <= 0xAD"), (UNICODE_CPP, "256 + n", "512 + n")),
    ),
    Fact(
        "keys of a vocabulary",
        [ours.vocabulary, ours.llama_run],
        f"{ARCH_CPP}, {VOCAB_CPP}",
        check_keys,
        (
            (ARCH_CPP, '"tokenizer.ggml.seperator_token_id"', '"tokenizer.ggml.separator_token_id"'),
            (ARCH_CPP, '"tokenizer.chat_template"', '"tokenizer.chat_templates"'),
            (VOCAB_CPP, "LLM_KV_TOKENIZER_EOM_ID", "LLM_KV_TOKENIZER_EOT_ID"),
        ),
    ),
]
