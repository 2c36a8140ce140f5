"""What is said of a file in types that no kernel serves."""

from support.stock import F16, NORM, blocks, floats, write_stock
from tmac.tools import advice

Q, K = "blk.0.attn_q.weight", "blk.0.attn_k.weight"


def test_one_line_on_converting_it(tmp_path):
    path = write_stock(tmp_path / "m.gguf", {Q: floats(F16, (64, 256)), NORM[0]: NORM[1]})
    said = advice.of(path)
    assert "do not serve f16" in said and f"tmac convert {path} --quantize w4g32z" in said and "\n" not in said


def test_nothing_of_what_is_served(tmp_path):
    """Nor of a file most of whose weights can be converted exactly; embeddings and norms do not count."""
    tensors = {Q: blocks(2, (64, 256)), K: floats(F16, (32, 256)), "token_embd.weight": floats(F16, (640, 256))}
    assert advice.of(write_stock(tmp_path / "m.gguf", tensors)) == ""
