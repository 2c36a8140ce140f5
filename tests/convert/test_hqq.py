"""The HQQ reader against hand-made bytes, and everything that it refuses."""

import numpy as np
import pytest

PACKING = {1: "1bit_u8", 1.58: "2bit_u8", 2: "2bit_u8", 3: "3bit_32", 4: "4bit_u8", 8: "8bit_u8"}
ROWS, COLUMNS, GROUP = 32, 64, 32
# Rows of codes: two groups for each output.
LINES = ROWS * COLUMNS // GROUP


@pytest.fixture
def layer(one_layer):
    return lambda tensors: one_layer({"quant_method": "hqq", "quant_config": {}, "skip_modules": ["lm_head"]}, tensors)


def text(value):
    return np.frombuffer(value.encode(), np.uint8)


def scalar(value):
    dtype = {bool: np.uint8, int: np.int32, float: np.float32}[type(value)]
    return np.array(value, dtype)


def tensors(kind=4, point=8.0, **changes):
    per_element = {8: 1, 4: 2, 3: 10, 2: 4, 1.58: 4, 1: 8}[kind]
    given = {
        "W_q": np.zeros((-(-LINES // per_element), GROUP), np.int32 if kind == 3 else np.uint8),
        "scale": np.ones((LINES, 1), np.float16),
        "zero": np.full((LINES, 1), point, np.float32),
        "nbits": scalar(kind),
        "group_size": scalar(GROUP),
        "axis": scalar(1),
        "shape": np.array([ROWS, COLUMNS]),
        "packing": text(PACKING[kind]),
        "view_as_float": scalar(False),
        "compute_dtype": text("torch.float16"),
        "encoded_state_dict": scalar(True),
        **changes,
    }
    return {name: values for name, values in given.items() if values is not None}


@pytest.mark.parametrize(
    ("nbits", "element", "lines"),
    [
        (8, 0xA7, {5: 0xA7}),
        (4, 0xA7, {5: 0xA, 32 + 5: 0x7}),  # halves, the first one high
        (2, 0b11_01_00_10, {5: 3, 16 + 5: 1, 48 + 5: 2}),  # quarters
        (1.58, 0b10_01_00_10, {5: 2, 16 + 5: 1, 48 + 5: 2}),
        (1, 0b10000011, {5: 1, 48 + 5: 1, 56 + 5: 1}),  # eighths
        (3, 0o1230000567, {5: 1, 12: 2, 19: 3, 54: 5, 61: 6}),  # tenths of 70, the last six unused
    ],
)
def test_rows_of_codes_in_an_element(layer, nbits, element, lines):
    """Line r is group r % 2 of output r // 2. Element (5, 9) holds its rows at steps of the number of elements."""
    given = tensors(nbits, 0.5 if nbits == 1 else 1.0)
    given["W_q"][5, 9] = element
    codes = layer(given).read("m", ROWS, COLUMNS).codes
    for line, code in lines.items():
        assert codes[line // 2, line % 2 * GROUP + 9] == code
    assert codes.sum() == sum(lines.values())


@pytest.mark.parametrize("nbits", [4, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.uint16, np.float32])
def test_bits_viewed_as_floats(layer, nbits, dtype):
    """view_as_float stores the same bytes as float16, bfloat16 or float32; their value as a number is meaningless."""
    given = tensors(nbits, 4.0)
    random = np.random.default_rng(3)
    high = 1 << 30 if nbits == 3 else 256
    given["W_q"][:] = random.integers(0, high, given["W_q"].shape)
    given["W_q"].reshape(-1).view(np.uint8)[:8] = 0xFF if nbits == 4 else 0x3F
    plain = layer(given).read("m", ROWS, COLUMNS).codes
    given["W_q"] = given["W_q"].view(dtype)
    given["view_as_float"] = scalar(True)
    assert np.array_equal(layer(given).read("m", ROWS, COLUMNS).codes, plain)


def test_scales_and_zero_points_by_line(layer):
    """W = (q - zero) * scale; zero-points in sixteenths are kept."""
    given = tensors()
    given["scale"][:, 0] = np.arange(LINES) + 1
    given["zero"][:, 0] = np.arange(LINES) / 16
    linear = layer(given).read("m", ROWS, COLUMNS)
    assert linear.scales[3].tolist() == [7, 8] and linear.zeros[3].tolist() == [6, 7]
    assert linear.dequantize()[3, 40] == -7 / 16 * 8


@pytest.mark.parametrize(("nbits", "zero"), [(8, 128.0), (4, 8.0), (3, 4.0), (2, 2.0), (1, 0.5)])
def test_symmetric_layers(layer, nbits, zero):
    reader = layer(tensors(nbits, zero))
    assert not reader.grid("m", ROWS, COLUMNS).asymmetric
    assert layer(tensors(nbits, zero + 1 / 16)).grid("m", ROWS, COLUMNS).asymmetric
    assert len(reader.names("m")) == 11


def test_8_bit_zero_points_have_16_bits(layer):
    linear = layer(tensors(8, 200.0625)).read("m", ROWS, COLUMNS)
    assert linear.zeros.dtype == np.uint16 and (linear.zeros == 3201).all()


@pytest.mark.parametrize(("nbits", "zero", "stored"), [(4, 15.9375, 255), (4, 0.0, 0), (8, 255.9375, 4095)])
def test_the_largest_and_the_least_zero_point(layer, nbits, zero, stored):
    """The last sixteenths that have a place."""
    linear = layer(tensors(nbits, zero)).read("m", ROWS, COLUMNS)
    assert linear.minima is None and (linear.zeros == stored).all()


@pytest.mark.parametrize("zero", [np.nan, np.inf, 1e4 / 3])
def test_zero_points_without_a_place(layer, refused, zero):
    """Not a number, or so large that fp16 holds the minimum too badly: the error names the value."""
    given = tensors()
    given["zero"] = given["zero"].astype(np.float32)
    given["zero"][33] = zero
    reader = layer(given)
    refused(lambda: reader.grid("m", ROWS, COLUMNS), "model.safetensors", "m.zero", "output 16, group 1", "minimum")


def test_random_zero_points_within_the_codes_are_kept(layer):
    """As HQQ leaves them: any scale, any zero-point from 0 to 16."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        given = tensors()
        given["scale"] = rng.uniform(5e-4, 1e-2, given["scale"].shape).astype(np.float16)
        given["zero"] = rng.uniform(0, 15.9, given["zero"].shape).astype(np.float16)
        reader = layer(given)
        linear = reader.read("m", ROWS, COLUMNS)
        exact = -given["zero"].astype(np.float64) * given["scale"].astype(np.float64)
        error = np.abs(linear.minima.reshape(exact.shape) - exact) / given["scale"]
        assert 0 < error.max() <= 2.0**-7 and f"{error.max():.2g} of a step" in reader.notes()[0]


@pytest.mark.parametrize("zero", [7.53125, -0.0625, 16.0])
def test_zero_points_that_become_minima(layer, zero):
    """Finer than sixteenths, or out of range: -zero * scale is stored."""
    given = tensors()
    given["zero"][33] = zero
    linear = layer(given).read("m", ROWS, COLUMNS)
    assert linear.zeros is None and linear.minima[16, 1] == -zero * linear.scales[16, 1]


def test_larger_groups_repeat_their_scales(layer):
    given = tensors(group_size=scalar(256), shape=np.array([8, 256]), W_q=np.zeros((4, 256), np.uint8))
    given["scale"], given["zero"] = np.arange(1, 9, dtype=np.float16)[:, None], np.full((8, 1), 3, np.float16)
    linear = layer(given).read("m", 8, 256)
    assert linear.group == 128 and linear.scales[2].tolist() == [3, 3] and linear.zeros[2].tolist() == [48, 48]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"axis": scalar(0)}, "axis 0"),
        ({"nbits": scalar(5)}, "nbits 5"),
        ({"nbits": scalar(1.5)}, "nbits 1.5"),
        ({"nbits": scalar(float("nan"))}, "nbits nan"),
        ({"group_size": scalar(16)}, "group_size 16"),
        ({"group_size": scalar(-1)}, "group_size -1"),
        ({"group_size": scalar(128)}, "group_size 128"),
        ({"group_size": scalar(float("inf"))}, "group_size inf"),
        ({"group_size": scalar(0)}, "group_size 0"),
        ({"packing": text("4bit_64")}, "packing '4bit_64'"),
        ({"packing": text("2bit_u8")}, "packing '2bit_u8'"),
        ({"packing": np.zeros(70000, np.uint8)}, "packing '70000 bytes'"),
        ({"quant_zero": scalar(True)}, "quant_zero 1"),
        ({"quant_scale": scalar(True)}, "quant_scale 1"),
    ],
)
def test_layers_that_are_refused_by_name(layer, refused, changes, named):
    reader = layer(tensors(**changes))
    words = (
        "model.safetensors",
        "layer m",
        f"HQQ with {named}",
        "not supported",
        "axis 1, nbits 1, 1.58, 2, 3, 4 or 8",
    )
    refused(lambda: reader.grid("m", ROWS, COLUMNS), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": np.array([64, 32])}, ["m.shape", "64 x 32", "expected 32 x 64"]),
        ({"shape": np.array([64])}, ["m.shape", "[1]", "expected [2]"]),
        ({"W_q": np.zeros((16, 32), np.uint8)}, ["m.W_q", "512 bytes", "expected 1024 in 32 rows", "4bit_u8"]),
        ({"W_q": np.zeros((64, 16), np.uint8)}, ["m.W_q", "[64, 16]", "32 rows"]),
        ({"W_q": np.zeros((32, 32), np.int64)}, ["m.W_q", "I64"]),
        ({"scale": np.ones((32, 1), np.float16)}, ["m.scale", "[32, 1]", "expected [64, 1]"]),
        ({"zero": np.ones(1, np.float16)}, ["m.zero", "[1]", "expected [64, 1]"]),
        ({"scale": np.full((64, 1), np.nan, np.float16)}, ["m.scale", "exact in fp16"]),
        ({"nbits": np.ones(2, np.int32)}, ["m.nbits", "[2]", "expected []"]),
        ({"axis": None}, ["m.axis is missing"]),
        ({"packing": None}, ["m.packing is missing"]),
    ],
)
def test_wrong_tensors(layer, refused, changes, words):
    reader = layer(tensors(**changes))
    refused(lambda: reader.grid("m", ROWS, COLUMNS), *words)


def test_elements_that_are_not_full(layer, refused):
    """The last elements of 3 bits are filled up, others never: an odd number of lines is none of 4 bits."""
    of_31_lines = {
        "scale": np.ones((31, 1), np.float16),
        "zero": np.ones((31, 1), np.float16),
        "shape": np.array([31, GROUP]),
    }
    whole = layer(tensors(3, W_q=np.zeros((4, GROUP), np.int32), **of_31_lines))
    assert whole.read("m", 31, GROUP).codes.shape == (31, GROUP)
    halved = layer(tensors(4, W_q=np.zeros((16, GROUP), np.uint8), **of_31_lines))
    refused(lambda: halved.grid("m", 31, GROUP), "m.W_q", "expected 512 in 16 rows for 31 groups of 32 in 4bit_u8")


def test_old_files_of_weights(tmp_path, demo, refused, quietly):
    """qmodel.pt runs code when it is opened, so it is refused, and the error names what is needed."""
    (tmp_path / "config.json").write_bytes((demo / "config.json").read_bytes())
    (tmp_path / "qmodel.pt").touch()
    refused(lambda: quietly(tmp_path, tmp_path / "x.gguf"), "only qmodel.pt", "expected model.safetensors")
