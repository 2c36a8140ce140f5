"""The default size of the context: bounded by the model, by the prompt's need, by memory."""

import gguf
import pytest

from tmac.tools.llama import context


@pytest.fixture
def model(tmp_path):
    """A GGUF of metadata alone: 2 layers with 4 key heads of 8, 256 bytes of cache for a token."""

    def write(trained):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        writer.add_context_length(trained)
        writer.add_block_count(2)
        writer.add_embedding_length(64)
        writer.add_head_count(8)
        writer.add_head_count_kv([4, 2])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return tmp_path / "m.gguf"

    return write


@pytest.fixture
def memory(monkeypatch):
    def set_free(nbytes):
        monkeypatch.setattr(context, "free_memory", lambda: nbytes)

    set_free(10**12)
    return set_free


@pytest.mark.parametrize(
    ("trained", "prompt", "tokens", "said"),
    [
        (131072, None, 8192, "the default"),
        (2048, None, 2048, ""),
        (131072, "x" * 200_000, 100_608, "a prompt of this length"),
        (16384, "x" * 200_000, 16384, ""),
    ],
)
def test_tokens(model, memory, trained, prompt, tokens, said):
    """8192 unless the model has fewer, or the prompt needs more; what is not all of the model's is said."""
    chosen = context.choose(model(trained), prompt)
    assert chosen.tokens == tokens and (said in chosen.words if said else chosen.words == "")


def test_memory_bounds_it(model, memory):
    """A cache of 256 bytes a token in 3/4 of 2 MB beside a small file; never fewer than the least."""
    memory(2_000_000)
    chosen = context.choose(model(131072))
    assert 5000 < chosen.tokens <= 1_500_000 // 256 and "memory" in chosen.words
    memory(1000)
    assert context.choose(model(131072)).tokens == context.LEAST_TOKENS


def test_control_group_counts(monkeypatch, tmp_path):
    """Its limit less what it uses, where that is less than the system's free memory."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  1000 kB\n")
    monkeypatch.setattr(context, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(context, "CGROUP", tmp_path)
    monkeypatch.setattr(context, "OWN_CGROUPS", tmp_path / "none")
    assert context.free_memory() == 1_024_000
    (tmp_path / "memory.max").write_text("600\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert context.free_memory() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert context.free_memory() == 1_024_000


def test_own_control_group_counts_without_caches_of_files(monkeypatch, tmp_path):
    """The least of the process's group and those around it; the page cache, such as that of weights, is given back."""
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/user.slice/tmac.service\n")
    monkeypatch.setattr(context, "MEMORY_FILE", tmp_path / "none")
    monkeypatch.setattr(context, "CGROUP", tmp_path / "fs")
    monkeypatch.setattr(context, "OWN_CGROUPS", tmp_path / "cgroup")
    own = tmp_path / "fs" / "user.slice" / "tmac.service"
    own.mkdir(parents=True)
    for folder, limit, used in ((own, "1000", "900"), (own.parent, "5000", "4900"), (tmp_path / "fs", "max", "9")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    assert context.free_memory() == 100
    (own / "memory.stat").write_text("anon 100\nfile 800\ninactive_file 500\nactive_file 250\nshmem 50\n")
    assert context.free_memory() == 100
    (own.parent / "memory.stat").write_text("inactive_file 4000\nactive_file 0\n")
    assert context.free_memory() == 850
