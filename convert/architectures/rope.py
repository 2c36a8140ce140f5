"""What a configuration says of rotary position embeddings (RoPE), and the order of rows that llama.cpp expects for it.

There are two ways to pair the d elements of a head. transformers rotates i with i + d/2, and so do some architectures
of llama.cpp (its NEOX type). `llama` and others rotate 2i with 2i + 1 (its NORM type): they need the rows of q and k in
that order, and then the attention scores are the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConvertError
from ..settings import Settings

# What transformers and llama.cpp take where nothing is said.
YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
COMPUTES_OTHERWISE = "llama.cpp would compute something else without an error"


def pair_row_order(heads: int, head_dim: int) -> np.ndarray:
    """int64 [heads * head_dim]: within each head, rows 0, d/2, 1, d/2 + 1, ... of the source, d = head_dim."""
    within = np.arange(head_dim).reshape(2, head_dim // 2).T.reshape(-1)
    return (np.arange(heads)[:, None] * head_dim + within).reshape(-1)


def rope_settings(settings: Settings) -> Settings:
    """What the configuration says of RoPE, in one object, with its rope_theta.

    transformers 5 moved rope_theta and rope_scaling into rope_parameters; some files have both. Raises ConvertError
    when the two places disagree.
    """
    older, newer = settings.child("rope_scaling"), settings.child("rope_parameters")
    if older and newer and _scaling(older) != _scaling(newer):
        raise _contradiction(settings, "rope_scaling", older.values, "rope_parameters", newer.values)
    rope = newer or older or Settings({}, settings.file)
    thetas = [place.values["rope_theta"] for place in (rope, settings) if place.values.get("rope_theta") is not None]
    if len(thetas) > 1 and thetas[0] != thetas[1]:
        raise _contradiction(settings, "rope_theta", thetas[1], "that of rope_parameters", thetas[0])
    return Settings({**rope.values, "rope_theta": thetas[0] if thetas else None}, settings.file)


def rope_type(rope: Settings) -> Any:
    return rope.values.get("rope_type", rope.values.get("type", "default"))


def refuse_partial_rotation(settings: Settings, rope: Settings, family: str) -> None:
    """Raises ConvertError when only a part of each head is rotated."""
    for place in (settings, rope):
        share = place.values.get("partial_rotary_factor")
        if share not in (None, 1):
            raise ConvertError(
                f"{settings.file}: partial_rotary_factor is {share!r}, expected 1 for {family}",
                "llama.cpp would rotate the whole of each head",
            )


def partial_width(settings: Settings, rope: Settings, head_dim: int, default: float) -> int:
    """How many elements of each head are rotated, where llama.cpp reads their number. Raises ConvertError."""
    shares = [place.values.get("partial_rotary_factor") for place in (settings, rope)]
    place = rope if shares[0] is None else settings
    width = int(head_dim * place.positive("partial_rotary_factor", default))
    if (None not in shares and shares[0] != shares[1]) or not 0 < width <= head_dim or width % 2:
        found = " and ".join(str(share) for share in shares if share is not None)
        raise settings.damaged(
            f"partial_rotary_factor is {found}, expected a share of head_dim {head_dim} that makes an even number"
        )
    return width


def llama3_factors(rope: Settings, theta: float, head_dim: int) -> np.ndarray:
    """float32 [head_dim / 2]: what llama.cpp divides each rotary frequency by.

    Llama 3.1's rule: wavelengths shorter than original / high_freq_factor stay, longer than original /
    low_freq_factor are divided by `factor`, those between are blended linearly in original / wavelength.
    """
    factor = rope.positive("factor")
    low, high = rope.positive("low_freq_factor"), rope.positive("high_freq_factor")
    original = rope.integer("original_max_position_embeddings")
    if high <= low:
        raise rope.damaged(f"high_freq_factor is {high}, expected more than low_freq_factor {low}")
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    blend = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def yarn_context(rope: Settings, context: int) -> int:
    """The context in tokens for which the model was trained before YaRN; `context` if the settings do not say it.

    Raises ConvertError for settings for which llama.cpp computes something else.
    """
    if rope.values.get("truncate", True) not in (None, True):
        raise ConvertError(
            f"{rope.file}: truncate of YaRN is {rope.values['truncate']!r}, expected True", COMPUTES_OTHERWISE
        )
    return rope.integer("original_max_position_embeddings", context)


def yarn_betas(rope: Settings) -> tuple[float, float]:
    """Between how many rotations in the original context a frequency is blended: beta_fast and beta_slow.

    With the keys of YARN_BETAS, which the patched llama.cpp reads for every architecture, it computes as transformers.
    """
    fast, slow = (rope.positive(key, usual) for key, usual in YARN_BETAS.items())
    if fast <= slow:
        raise rope.damaged(f"beta_fast of YaRN is {fast:g}, expected more than beta_slow {slow:g}")
    return fast, slow


def yarn_attention_share(rope: Settings) -> float:
    """What llama.cpp's own factor on cosines and sines, 0.1 ln(factor) + 1, is to be multiplied by.

    transformers takes attention_factor; without it, mscale and mscale_all_dim if both are there; else that factor.
    """
    factor = rope.positive("factor")

    def usual(mscale: float = 1.0) -> float:
        return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0

    if rope.values.get("attention_factor") is not None:
        wanted = rope.positive("attention_factor")
    elif rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        wanted = usual(rope.positive("mscale")) / usual(rope.positive("mscale_all_dim"))
    else:
        wanted = usual()
    share = wanted / usual()
    return 1.0 if math.isclose(share, 1.0, rel_tol=1e-6) else share


def _scaling(rope: Settings) -> dict[str, Any]:
    """The values that scale positions, under one name for the type; rope_theta is compared on its own."""
    others = {"type", "rope_theta", "partial_rotary_factor"}
    values = {key: value for key, value in rope.values.items() if key not in others and value is not None}
    return {**values, "rope_type": rope_type(rope)}


def _contradiction(settings: Settings, key: str, value: Any, other: str, other_value: Any) -> ConvertError:
    return ConvertError(
        f"{settings.file}: {key} is {value!r}, but {other} is {other_value!r}, expected the same",
        "remove the wrong one from the file; the model's page or paper says which it is",
    )
