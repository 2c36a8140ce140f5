"""Writes importance matrices in both formats of llama-imatrix, following its source."""

import struct

import gguf
import numpy as np

SUMS = {
    "blk.0.attn_q.weight": (np.array([[2, 4, 6, 8]]), [4]),
    "blk.0.ffn_up_exps.weight": (np.array([[3, 6], [5, 5]]), [3, 0]),
}


def write_new(path, sums=SUMS, kind="imatrix", counts=True):
    """Sums of squares and counts of tokens, as save_imatrix writes them."""
    writer = gguf.GGUFWriter(path, "x")
    writer.add_string("general.type", kind)
    writer.add_array("imatrix.datasets", ["text.txt"])
    for name, (values, tokens) in sums.items():
        writer.add_tensor(f"{name}.in_sum2", values.astype(np.float32))
        if counts:
            writer.add_tensor(f"{name}.counts", np.array(tokens, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_old(path, sums=SUMS):
    """Mean squares times the number of calls, here 2, as save_imatrix_legacy writes them."""
    data = struct.pack("<i", len(sums))
    for name, (values, tokens) in sums.items():
        means = [row / count if count else np.ones(len(row)) for row, count in zip(values, tokens)]
        flat = (np.concatenate(means) * 2).astype("<f4")
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 2, flat.size) + flat.tobytes()
    path.write_bytes(data + struct.pack("<ii", 7, 8) + b"text.txt")
    return path
