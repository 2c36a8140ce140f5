"""tokenizer.json of the byte-level kind -> a GGUF's `gpt2` vocabulary, on hand-made files."""

import gguf
import pytest
from gguf import TokenType

from tmac.convert.vocabularies.bpe import byte_characters, byte_text, merge, unmerged

BEGIN = {"id": 259, "content": "<|begin|>", "special": True}


def test_tokens_types_and_merges(tokenizer):
    """Added tokens get their types; rows without a token are unused, under names that are not taken."""
    tokenizer.json["model"]["vocab"]["[PAD262]"] = 263
    tokenizer.json["added_tokens"] = [BEGIN, {"id": 261, "content": "<tool> ", "special": False}]
    vocabulary = tokenizer.read(266)
    assert vocabulary.texts[256:] == [
        b"he",
        b"ll",
        b"hell",
        b"<|begin|>",
        b"[PAD260]",
        b"<tool> ",
        b"[[PAD262]]",
        b"[PAD262]",
        b"[PAD264]",
        b"[PAD265]",
    ]
    normal, unused = TokenType.NORMAL, TokenType.UNUSED
    assert vocabulary.types == [
        *[normal] * 259,
        TokenType.CONTROL,
        unused,
        TokenType.USER_DEFINED,
        unused,
        normal,
        unused,
        unused,
    ]
    assert vocabulary.merges == ["h e", "l l", "he ll"]
    assert (vocabulary.model, vocabulary.pre, vocabulary.scores, vocabulary.notes) == ("gpt2", "gpt-2", None, [])


def test_metadata(tokenizer, tmp_path):
    """Every key that llama.cpp reads, and no scores."""
    tokenizer.json["added_tokens"] = [BEGIN]
    settings = {"bos_token": "<|begin|>", "eos_token": "<|begin|>", "add_bos_token": True}
    tokenizer.write("tokenizer_config.json", settings)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    tokenizer.read(260).add_metadata(writer)
    keys = {key: value.value for key, value in writer.kv_data[0].items() if key.startswith("tokenizer.")}
    assert len(keys.pop("tokenizer.ggml.tokens")) == len(keys.pop("tokenizer.ggml.token_type")) == 260
    assert keys == {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["h e", "l l", "he ll"],
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def test_both_spellings_of_merges(tokenizer):
    """A pair that is listed twice has its last rank, as in the `tokenizers` package; llama.cpp would use the first."""
    tokenizer.json["model"]["merges"] = [["l", "l"], ["h", "e"], "l l", ["he", "ll"]]
    assert tokenizer.read().merges == ["h e", "l l", "he ll"]


def test_merges_with_raw_spaces_never_apply(tokenizer):
    """Words of such a tokenizer hold another character for a space. In a GGUF a space would split the pair wrongly."""
    tokenizer.json["model"]["vocab"] |= {" ": 259, "  ": 260}
    tokenizer.json["model"]["merges"].append([" ", " "])
    assert tokenizer.read().merges == ["h e", "l l", "he ll"]


def test_a_byte_level_tokenizer_comes_before_a_tokenizer_model(tokenizer):
    """A tokenizer.model beside it is not SentencePiece's (Llama 3's is tiktoken's)."""
    (tokenizer.path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert tokenizer.read().model == "gpt2"


def test_tokens_beyond_the_embedding(tokenizer, refused):
    """An added token is left out with a note; a token of the model is an error."""
    tokenizer.json["added_tokens"] = [BEGIN]
    (note,) = tokenizer.read(259).notes
    assert "'<|begin|>' with id 259 is beyond the embedding" in note
    refused(lambda: tokenizer.read(258), "tokenizer.json", "'hell' has id 258", "at most 257", "different models")


def test_added_token_in_the_place_of_another(tokenizer, refused):
    tokenizer.json["added_tokens"] = [{**BEGIN, "id": 256}]
    refused(tokenizer.read, "tokenizer.json: added token 256 is '<|begin|>'", "has 'he' there", "one text for one id")


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
}
END = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|begin|>"}}]}
ROBERTA = {"type": "RobertaProcessing", "sep": ["<|begin|>", 259], "cls": ["<|begin|>", 259]}
TRIM = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
LLAMA = {"tokenizer_class": "LlamaTokenizerFast"}


@pytest.mark.parametrize(
    ("post_processor", "settings", "bos", "eos"),
    [
        (None, {}, False, False),
        (TRIM, {"add_bos_token": True}, True, False),
        (TRIM, {"add_bos_token": False, "add_eos_token": True}, False, True),
        (TEMPLATE, {}, True, False),
        ({"type": "Sequence", "processors": [TRIM, TEMPLATE]}, {}, True, False),
        # Only the classes that put the flags in place of the post_processor follow them.
        (TEMPLATE, {"add_bos_token": False, "tokenizer_class": "PreTrainedTokenizerFast"}, True, False),
        (TEMPLATE, {"add_bos_token": False, **LLAMA}, False, False),
        (TEMPLATE, {"add_bos_token": False, "tokenizer_class": "CodeLlamaTokenizer"}, False, False),
        (TEMPLATE, {"add_bos_token": False, "tokenizer_class": "GemmaTokenizerFast"}, False, False),
        (TEMPLATE, {"add_bos_token": False, "tokenizer_class": "CohereTokenizerFast"}, False, False),
        (TEMPLATE, {"add_bos_token": False, "tokenizer_class": "XLlamaTokenizer"}, True, False),
        (None, {"add_bos_token": True, **LLAMA}, True, False),
        (END, {}, False, True),
        (ROBERTA, {}, True, True),
    ],
)
def test_what_is_put_around_a_text(tokenizer, post_processor, settings, bos, eos):
    tokenizer.json["added_tokens"] = [BEGIN]
    tokenizer.json["post_processor"] = post_processor
    tokenizer.write("tokenizer_config.json", settings)
    tokenizer.write("special_tokens_map.json", {"bos_token": "<|begin|>", "eos_token": {"content": "<|begin|>"}})
    vocabulary = tokenizer.read()
    assert vocabulary.add_flags == {"bos": bos, "eos": eos}
    assert vocabulary.notes == []


def test_the_token_at_the_front_is_the_bos_token(tokenizer):
    """It becomes the bos token, whatever other files say: llama.cpp puts only the bos token at the front."""
    tokenizer.json["added_tokens"] = [BEGIN, {"id": 260, "content": "<other>", "special": True}]
    tokenizer.json["post_processor"] = TEMPLATE
    tokenizer.write("tokenizer_config.json", {"bos_token": "<other>"})
    assert tokenizer.read().special_ids["bos"] == 259
    begin, text = TEMPLATE["single"]
    tokenizer.json["post_processor"] = {**TEMPLATE, "single": [begin, {"SpecialToken": {"id": "<other>"}}, text]}
    (note,) = tokenizer.read().notes
    assert "adds '<|begin|><other>' (bos) to every text, llama.cpp '<|begin|>'" in note


def test_another_end_than_eos_is_not_put(tokenizer):
    tokenizer.json["added_tokens"] = [BEGIN]
    tokenizer.json["post_processor"] = END
    vocabulary = tokenizer.read(config={"eos_token_id": 258})
    assert vocabulary.add_flags["eos"] is False and vocabulary.special_ids["eos"] == 258
    assert "llama.cpp 'nothing'" in vocabulary.notes[0]


def test_bos_without_a_token(tokenizer, refused):
    """llama.cpp would stop at an assertion."""
    tokenizer.write("tokenizer_config.json", {"add_bos_token": True})
    refused(tokenizer.read, "tokenizer_config.json", "add_bos_token is true", "bos_token is none of the tokens")


def test_composed_text(tokenizer, refused):
    """A note says that llama.cpp does not apply NFC. Normalizers that change common texts are refused."""
    tokenizer.json["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    (note,) = tokenizer.read().notes
    assert "NFC" in note
    tokenizer.json["normalizer"] = {"type": "Lowercase"}
    refused(tokenizer.read, "tokenizer.json", "normalizer is 'Lowercase'", "none or 'NFC'")


def test_a_model_of_an_early_release(tokenizer):
    """Merges say what it is; options that are not used are empty."""
    texts = tokenizer.read().texts
    del tokenizer.json["model"]["type"]
    tokenizer.json["model"].update(continuing_subword_prefix="", end_of_word_suffix="", dropout=0.0)
    assert tokenizer.read().texts == texts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 5}, ["model is a int, expected an object"]),
        ({"model": {"type": "Unigram", "vocab": []}}, ["of the type 'Unigram', expected 'BPE'", "merge pairs"]),
        ({"model": {"type": "WordPiece"}}, ["of the type 'WordPiece', expected 'BPE'"]),
        ({"model": {"vocab": {}}}, ["of the type None, expected 'BPE'"]),
        ({"added_tokens": [5]}, ["added_tokens is not a list of objects"]),
        ({"added_tokens": [{"id": True, "content": "x"}]}, ["added token True is 'x'"]),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, ["added token -1 is 'x'"]),
        ({"added_tokens": [{"id": 259, "content": ""}]}, ["added token 259 is ''"]),
        ({"added_tokens": [{"id": 259, "content": "\ud800"}]}, ["not valid Unicode"]),
        ({"normalizer": [1]}, ["normalizer holds '[1]'"]),
        ({"post_processor": {"type": "Sequence", "processors": 5}}, ["processors of post_processor is not a list"]),
        ({"post_processor": {"type": "TemplateProcessing", "single": "$A"}}, ["single of post_processor"]),
        ({"post_processor": {**TEMPLATE, "single": [{"SpecialToken": {"id": 5}}]}}, ["single of post_processor"]),
        ({"post_processor": {"type": "BertProcessing", "cls": []}}, ["cls of post_processor is '[]'"]),
        ({"post_processor": {"type": "BertProcessing", "cls": [5, 0]}}, ["cls of post_processor is '[5, 0]'"]),
        ({"post_processor": {"type": "BertProcessing", "cls": {"a": 0}}}, ["cls of post_processor is"]),
        ({"post_processor": TEMPLATE}, ["post_processor adds '<|begin|>', which is none of the tokens"]),
    ],
)
def test_damaged_or_foreign_files(tokenizer, refused, change, words):
    tokenizer.json.update(change)
    if "model" in change:
        tokenizer.json["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False}
    refused(tokenizer.read, "tokenizer.json", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab": []}, ["model.vocab is a list"]),
        ({"vocab": {"a": -1}}, ["'a' has id -1"]),
        ({"vocab": {"a": True}}, ["'a' has id True"]),
        ({"vocab": {"a": 10**30}}, ["'a' has id 1000"]),
        ({"vocab": {"a": 1, "b": 1}}, ["'a' and 'b' have the same id 1"]),
        ({"vocab": {"ab": 1, "": 1}}, ["'ab' and '' have the same id 1"]),
        ({"vocab": {"a": 1, "\ud800": 1}}, ["not valid Unicode"]),
        ({"vocab": {"\udfff": 1}}, ["not valid Unicode"]),
        ({"merges": None}, ["model.merges is a NoneType"]),
        ({"merges": ["a"]}, ["merge 0 is 'a', expected two tokens"]),
        ({"merges": ["a b c"]}, ["merge 0 is 'a b c', expected two tokens"]),
        ({"merges": [["", "h"]]}, ["merge 0 is", "expected two tokens"]),
        ({"merges": [["a", 5]]}, ["merge 0 is", "expected two tokens"]),
        ({"merges": ["a b"]}, ["merge 0 is 'a b', but 'ab' is not in the vocabulary"]),
        ({"dropout": 0.1}, ["dropout is 0.1, expected none"]),
        ({"end_of_word_suffix": "</w>"}, ["end_of_word_suffix is '</w>'"]),
        ({"continuing_subword_prefix": "##"}, ["continuing_subword_prefix is '##'"]),
        ({"ignore_merges": "yes"}, ["ignore_merges is 'yes'"]),
    ],
)
def test_damaged_or_foreign_models(tokenizer, refused, change, words):
    tokenizer.json["model"].update(change)
    refused(tokenizer.read, "tokenizer.json", *words)


def test_a_byte_without_a_token(tokenizer, refused):
    """Both programs leave it out, unless the tokenizer has an unknown token and a text of UTF-8 can have the byte."""
    characters, whole = byte_characters(), dict(tokenizer.json["model"]["vocab"])
    del tokenizer.json["model"]["vocab"]["Ģ"]
    assert tokenizer.read().types.count(TokenType.UNUSED) == 12
    in_text = {byte for text in map(chr, range(0x110000)) for byte in text.encode(errors="ignore")}
    never = {characters[byte] for byte in set(range(256)) - in_text}
    tokenizer.json["model"]["unk_token"] = "he"
    tokenizer.json["model"]["vocab"] = {text: token for text, token in whole.items() if text not in never}
    assert tokenizer.read().types.count(TokenType.UNUSED) == 11 + len(never) == 24
    for byte in (0x00, 0x80, 0xBF, 0xC2, 0xF4):
        tokenizer.json["model"]["vocab"] = {text: token for text, token in whole.items() if text != characters[byte]}
        refused(tokenizer.read, f"byte 0x{byte:02X} has no token and becomes 'he'", "leave the byte out")


def test_byte_characters():
    """GPT-2's table: space, newline, DEL, 0xAD and a letter."""
    table = byte_characters()
    assert [table[byte] for byte in (0x20, 0x0A, 0x7F, 0xAD, 0x41, 0xFF)] == ["Ġ", "Ċ", "ġ", "Ń", "A", "ÿ"]
    assert len(set(table)) == 256
    assert byte_text("ĠÃ©Ã") == byte_text("Ġ \u20acÃ©") == " é"


def test_merging():
    """Lowest rank first, then leftmost. A token whose own merges lead elsewhere stays unmerged."""
    ranks = {("a", "b"): 0, ("b", "c"): 1, ("a", "bc"): 2, ("b", "b"): 3}
    assert merge("abcabbb", ranks) == ["ab", "c", "ab", "bb"]
    assert unmerged(["a", "ab", "abc", "bc", "zz"], [("a", "b"), ("b", "c"), ("a", "bc")]) == ["abc", "zz"]
