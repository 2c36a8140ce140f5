"""The metadata of models whose weights are rotated (Bonsai 2): the keys, and the values that T-MAC understands.

`convert` reads the keys and keeps them as they are; C gets the names from kernels/catalog_source.py. docs/format.md
says what they mean.
"""

# All keys of their maker begin with this; another one than those below may change what weights mean.
MAKER_PREFIX = "prism."
PREFIX = MAKER_PREFIX + "hadamard."
VERSION_KEY, VERSION = PREFIX + "version", 1
TRANSFORM_KEY, TRANSFORM = PREFIX + "transform", "normalized-sylvester-walsh-hadamard"
AXIS_KEY, AXIS = PREFIX + "axis", "input-last-dimension"
BLOCK_KEY = PREFIX + "block_size"
SIGN_MODE_KEY, EXPLICIT, IDENTITY = PREFIX + "sign_mode", "explicit", "identity"
SIGN_WIDTHS_KEY = PREFIX + "sign_widths"
SIGN_VALUES_KEY = PREFIX + "sign_values"
WEIGHTS_KEY = PREFIX + "weight_names"
TABLES_KEY = PREFIX + "inverse_weight_names"
GROUPED_KEY = PREFIX + "gdn_v_grouped"
KEYS = (
    VERSION_KEY,
    TRANSFORM_KEY,
    AXIS_KEY,
    BLOCK_KEY,
    SIGN_MODE_KEY,
    SIGN_WIDTHS_KEY,
    SIGN_VALUES_KEY,
    WEIGHTS_KEY,
    TABLES_KEY,
    GROUPED_KEY,
)
# GROUPED_KEY is about this matrix of gated delta nets, whose input has the order of the value heads. The graphs of
# these architectures have that order tiled: [values of a group][groups][head].
GROUPED_SUFFIX = ".ssm_out.weight"
TILED_ARCHITECTURES = ("qwen35", "qwen35moe")
# Below the name of the architecture: numbers of groups and of value heads.
GROUPS_KEY, HEADS_KEY = ".ssm.group_count", ".ssm.time_step_rank"
