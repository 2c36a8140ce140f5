"""The demo checkpoint in other formats: the same codes, scales and zero-points, packed slowly from the definitions."""

import numpy as np

GROUP = 64


class Layer:
    """W[n, k] = scales[n, k // group] * (codes[n, k] - zeros[n, k // group]) of one layer of GPTQ v2; the demo's has
    2 bits."""

    def __init__(self, tensors, module, bits=2, group=GROUP):
        words, packed = (tensors[f"{module}.{part}"].view(np.uint32) for part in ("qweight", "qzeros"))
        per, top, self.group = 32 // bits, (1 << bits) - 1, group
        self.codes = np.stack([words[k // per] >> bits * (k % per) & top for k in range(len(words) * per)], axis=1)
        self.zeros = np.stack([packed[:, n // per] >> bits * (n % per) & top for n in range(words.shape[1])])
        self.scales = np.ascontiguousarray(tensors[f"{module}.scales"].T)
        self.rows, self.columns = self.codes.shape


def stream(values, bits, padded=False):
    """Values along the last axis in uint32: as a dense stream of bits, or as many whole values per word as fit."""
    values = np.asarray(values, np.uint32)
    per_word = 32 // bits if padded else 32
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % per_word)])
    planes = (values[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    if padded:
        planes = planes.reshape(*values.shape[:-1], -1, per_word * bits)
        planes = np.pad(planes, [(0, 0)] * (planes.ndim - 1) + [(0, 32 - per_word * bits)])
    return np.packbits(planes.reshape(*values.shape[:-1], -1), axis=-1, bitorder="little").view(np.uint32)


def awq_gemm(layer):
    def pack(values):
        turned = values.T.reshape(values.shape[1], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return stream(turned.reshape(values.shape[1], -1), 4).view(np.int32)

    return {"qweight": pack(layer.codes), "qzeros": pack(layer.zeros), "scales": layer.scales.T.copy()}


def _padded(values, width):
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _awq_width(layer):
    """Groups in whole vectors of the kernels: two words of eight for groups of 64, four for 32."""
    step = {32: 32, 64: 16}[layer.group]
    return -(-layer.zeros.shape[1] // step) * step


def awq_gemv(layer):
    width = _awq_width(layer)
    zeros = stream(_padded(layer.zeros, width), 4).view(np.int32)[:, : width // 8].copy()
    return {"qweight": stream(layer.codes, 4).view(np.int32), "qzeros": zeros, "scales": _padded(layer.scales, width)}


def awq_gemv_fast(layer):
    """The steps of the fact sheet, one after the other."""
    rows, columns = layer.codes.shape
    codes = layer.codes.reshape(rows, columns // 32, 4, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, columns // 32, 32)
    codes = codes.reshape(rows, columns // 32, 4, 4, 2).transpose(0, 1, 2, 4, 3).reshape(rows, columns)
    codes = codes.reshape(rows // 4, 4, columns // 64, 64).transpose(0, 2, 1, 3).reshape(rows // 4, columns, 4)
    words = sum(codes[..., nibble] << 4 * nibble for nibble in range(4)).astype(np.uint16).view(np.int16)
    width = _awq_width(layer)
    zeros = -(layer.scales.astype(np.float32) * layer.zeros).astype(np.float16)
    return {"qweight": words, "qzeros": _padded(zeros, width).T.copy(), "scales": _padded(layer.scales, width).T.copy()}


def gptq(zero_offset, order=True):
    """4 bits, with zero-points less by `zero_offset`."""

    def pack(layer):
        zeros = stream((layer.zeros.T - zero_offset) & 15, 4).view(np.int32)
        tensors = {"qweight": np.ascontiguousarray(stream(layer.codes, 4).view(np.int32).T), "qzeros": zeros}
        groups = {"g_idx": (np.arange(layer.columns) // layer.group).astype(np.int32)} if order else {}
        return {**tensors, "scales": np.ascontiguousarray(layer.scales.T), **groups}

    return pack


def compressed(bits, padded=False):
    def pack(layer):
        codes, zeros = (stream(each, bits, padded).view(np.int32) for each in (layer.codes, layer.zeros.T))
        return {
            "weight_packed": codes[:, : _words(layer.columns, bits, padded)],
            "weight_zero_point": zeros[:, : _words(layer.rows, bits, padded)].T,
            "weight_scale": layer.scales,
            "weight_shape": np.array([layer.rows, layer.columns]),
        }

    return lambda layer: {name: np.ascontiguousarray(values) for name, values in pack(layer).items()}


def _words(count, bits, padded):
    return -(-count // (32 // bits)) if padded else -(-count * bits // 32)


def compressed_act_order(layer):
    """The demo's groups, renumbered, so that g_idx is not monotonic."""
    place = np.roll(np.arange(layer.zeros.shape[1])[::-1], 1)
    tensors = compressed(4)(layer)
    scales, zeros = np.empty_like(layer.scales), np.empty_like(layer.zeros)
    scales[:, place], zeros[:, place] = layer.scales, layer.zeros
    tensors["weight_scale"] = scales
    tensors["weight_zero_point"] = np.ascontiguousarray(stream(zeros.T, 4).view(np.int32).T)
    return {**tensors, "weight_g_idx": place[np.arange(layer.columns) // GROUP].astype(np.int32)}


def compressed_int8(layer):
    """q - z is an integer from -3 to 3: symmetric 8-bit weights."""
    weight = layer.codes.astype(np.int8) - np.repeat(layer.zeros.astype(np.int8), GROUP, axis=1)
    return {"weight": weight, "weight_scale": layer.scales}


def hqq(packing, bits, per_element):
    def pack(layer):
        codes = layer.codes.reshape(-1, GROUP)
        codes = np.pad(codes, ((0, -len(codes) % per_element), (0, 0))).reshape(per_element, -1, GROUP)
        packed = sum(codes[part] << bits * (per_element - 1 - part) for part in range(per_element))
        return {
            "W_q": packed.astype(np.int32 if bits == 3 else np.uint8),
            "scale": layer.scales.reshape(-1, 1),
            "zero": layer.zeros.reshape(-1, 1).astype(np.float16),
            "nbits": np.array(bits, np.int32),
            "group_size": np.array(GROUP, np.int32),
            "axis": np.array(1, np.int32),
            "shape": np.array([layer.rows, layer.columns]),
            "packing": np.frombuffer(packing.encode(), np.uint8),
            "view_as_float": np.array(0, np.uint8),
            "round_zero": np.array(1, np.uint8),
        }

    return pack


def mlx(bits):
    """biases = -scale * z, exact in float32."""

    def pack(layer):
        scales = layer.scales.astype(np.float32)
        biases = -scales * layer.zeros.astype(np.float32)
        return {"weight": stream(layer.codes, bits), "scales": scales, "biases": biases}

    return pack


def _awq(version):
    return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": version}


def _compressed(bits, format="pack-quantized", **weights):
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": False, **weights}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }


# name: settings (a key without `quant_method` is MLX's `quantization`), packing, type in the GGUF
FORMATS = {
    "awq-gemm": (_awq("gemm"), awq_gemm, "tmac_w4g64z"),
    "awq-gemv": (_awq("gemv"), awq_gemv, "tmac_w4g64z"),
    "awq-gemv-fast": (_awq("gemv_fast"), awq_gemv_fast, "tmac_w4g64z"),
    "compressed-w2": (_compressed(2), compressed(2), "tmac_w2g64z"),
    "compressed-w3": (_compressed(3), compressed(3), "tmac_w3g64z"),
    "compressed-w3-padded": (_compressed(3), compressed(3, padded=True), "tmac_w3g64z"),
    "compressed-w4-act-order": (_compressed(4, actorder="group"), compressed_act_order, "tmac_w4g64z"),
    "compressed-int8": (_compressed(8, "int-quantized", symmetric=True), compressed_int8, "q8_0"),
    "hqq-2bit": ({"quant_method": "hqq"}, hqq("2bit_u8", 2, 4), "tmac_w2g64z"),
    "hqq-3bit": ({"quant_method": "hqq"}, hqq("3bit_32", 3, 10), "tmac_w3g64z"),
    "hqq-4bit": ({"quant_method": "hqq"}, hqq("4bit_u8", 4, 2), "tmac_w4g64z"),
    "mlx-2bit": ({"bits": 2, "group_size": GROUP}, mlx(2), "tmac_w2g64z"),
    "mlx-3bit": ({"bits": 3, "group_size": GROUP, "mode": "affine"}, mlx(3), "tmac_w3g64z"),
}


def reexpress(folder, name):
    """Turns `folder`, a copy of the demo, into the format `name`."""
    settings, pack, _ = FORMATS[name]
    del folder.config["quantization_config"]
    folder.config["quantization_config" if "quant_method" in settings else "quantization"] = settings
    for key in [key for key in folder.tensors if key.endswith(".qweight")]:
        module = key.removesuffix(".qweight")
        packed = pack(Layer(folder.tensors, module))
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            folder.tensors.pop(f"{module}.{part}", None)
        folder.tensors.update({f"{module}.{part}": values for part, values in packed.items()})
    return folder.save()
