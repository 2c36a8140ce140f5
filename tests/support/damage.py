"""Random damage to the headers of a checkpoint's files."""

import json
import struct

VALUES = (
    None,
    True,
    -1,
    0,
    3,
    2**40,
    1.5,
    "x",
    "",
    [],
    [7],
    {},
    {"factor": "x"},
    float("inf"),
    2**63,
    2**64,
    10**4000,
    [2**62] * 400,
)


def damage_header_bytes(folder, random_):
    data = bytearray(folder.weights.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    for _ in range(random_.choice((1, 1, 4))):
        data[random_.randrange(8 + length)] = random_.randrange(256)
    folder.weights.write_bytes(data)


def damage_header_entry(folder, random_):
    data = folder.weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = random_.choice(list(header))
    if random_.random() < 0.2:
        header[random_.choice(("x", "lm_head.weight "))] = header.pop(name)
    else:
        key = random_.choice(("dtype", "shape", "data_offsets"))
        header[name][key] = random_.choice((*VALUES, "I32", "F16", [256, 256], [0, 2**62]))
    text = json.dumps(header).encode()
    folder.weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
