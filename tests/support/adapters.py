"""Files that change a model while it runs: LoRA adapters and control vectors. Random numbers, but no small change."""

import gguf
import numpy as np

RANK = 4


def write_adapter(path, architecture, shapes):
    """A LoRA adapter. `shapes`: name of a weight -> its shape, [M, K] or [experts, M, K]."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for name, (*experts, rows, columns) in shapes.items():
        for part, shape in (("a", (RANK, columns)), ("b", (rows, RANK))):
            values = rng.standard_normal((*experts, *shape), np.float32) / 4
            writer.add_tensor(f"{name}.lora_{part}", values)
    return _written(writer, path)


def write_control_vector(path, layers, width, size):
    """A control vector for all layers but the first, which llama.cpp leaves out."""
    rng = np.random.default_rng(4)
    writer = gguf.GGUFWriter(path, "controlvector")
    for layer in range(1, layers):
        writer.add_tensor(f"direction.{layer}", size * rng.standard_normal(width, np.float32))
    return _written(writer, path)


def _written(writer, path):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
