"""Settings of compressed-tensors, and the tensors of a layer that they describe."""

import numpy as np


def group(targets=("Linear",), format=None, inputs=None, **weights):
    base = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True, "dynamic": False}
    return {
        "targets": list(targets),
        "format": format,
        "input_activations": inputs,
        "output_activations": None,
        "weights": {**base, **weights},
    }


def settings(*groups, **others):
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": each for i, each in enumerate(groups or [group()])},
        **others,
    }


def packed(bits=4, rows=32, columns=32, groups=1, width=None):
    return {
        "weight_packed": np.zeros((rows, width or -(-columns * bits // 32)), np.int32),
        "weight_scale": np.ones((rows, groups), np.float16),
        "weight_shape": np.array([rows, columns]),
    }
