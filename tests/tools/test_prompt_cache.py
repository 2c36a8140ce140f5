"""The bound of what earlier prompts are kept in: what weights and context leave, unless the user says it."""

import gguf
import pytest

from tmac.tools.llama import context, prompt_cache

MIB = 1 << 20
PER_TOKEN = 256


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A GGUF of metadata alone: 2 layers with 4 key heads of 8, trained for 4096 tokens."""
    monkeypatch.delenv(prompt_cache.VARIABLE, raising=False)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(8)
    writer.add_head_count_kv(4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return tmp_path / "m.gguf"


@pytest.fixture
def choose(model, monkeypatch):
    def with_free(nbytes, tokens, drafting=(), servers=1):
        monkeypatch.setattr(prompt_cache, "free_memory", lambda: nbytes)
        return prompt_cache.choose([model, *drafting], tokens, servers)

    return with_free


@pytest.mark.parametrize(("tokens", "counted"), [(1024, 1024), (0, 4096)])
def test_half_of_what_is_left(choose, model, tokens, counted):
    """Beside the file and the cache of the context, which is the model's own where none is given."""
    used = model.stat().st_size + counted * PER_TOKEN
    chosen = choose(used + 200 * MIB, tokens)
    assert chosen.mib == 100 and chosen.arguments() == ["--cache-ram", "100"]
    assert "100 MiB" in chosen.words and "--cache-ram" in chosen.words
    assert choose(used + 200 * MIB - 2, tokens).mib == 99


def test_nothing_left_is_no_cache(choose):
    assert choose(1000, 4096).arguments() == ["--cache-ram", "0"]


def test_less_than_a_whole_context_is_no_cache(choose, model):
    """llama.cpp would empty idle conversations that it cannot keep: with 0 they stay where they are."""
    tokens = 40 * MIB // PER_TOKEN
    used = model.stat().st_size + 40 * MIB
    assert choose(used + 80 * MIB, tokens).mib == 40
    chosen = choose(used + 80 * MIB - 2, tokens)
    assert chosen.arguments() == ["--cache-ram", "0"]
    assert chosen.words == (
        "earlier prompts: 0 MiB, as the free memory allows 39, and a whole context takes 40 (--cache-ram MIB)"
    )


def test_model_of_drafts_counts_too(choose, model):
    """Its file, and a context as long as the other's."""
    both = 2 * (model.stat().st_size + 1024 * PER_TOKEN)
    assert choose(both + 200 * MIB, 1024, drafting=[model]).mib == 100
    assert choose(both + 200 * MIB - 2, 1024, drafting=[model]).mib == 99


def test_servers_have_equal_parts(choose, model):
    used = model.stat().st_size + 1024 * PER_TOKEN
    assert choose(4 * (used + 200 * MIB), 1024, servers=4).mib == 100


def test_much_memory_changes_nothing(choose):
    """llama.cpp's own bound, of which nothing is said; so where no system says what is free."""
    chosen = choose(10**12, 4096)
    assert chosen.mib == prompt_cache.LIMIT == 8192 and chosen.words == ""
    assert choose(None, 4096).arguments() == []


@pytest.mark.parametrize("extra", [["-cram", "5"], ["--cache-ram", "5"], ["--cache-ram=5"], ["--cache_ram", "5"]])
def test_the_user_says_it(model, monkeypatch, extra):
    assert prompt_cache.is_asked(extra) and not prompt_cache.is_asked(["--cache-reuse", "5"])
    monkeypatch.setenv(prompt_cache.VARIABLE, "7")
    assert prompt_cache.is_asked([])


def test_bytes_are_those_of_the_context(model):
    from tmac.convert.sources.gguf_header import read_gguf_header

    assert context.bytes_per_token(read_gguf_header(model).metadata) == PER_TOKEN
