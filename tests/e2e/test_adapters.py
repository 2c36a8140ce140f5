"""LoRA adapters and control vectors on T-MAC's weights, against the same model in floats: an adapter multiplies the
activations as they were before they are reordered, rotated or rounded for the weight, whose scale does not scale it.
"""

import pytest

from support.adapters import write_adapter, write_control_vector
from support.comparison import nmse
from support.expert_models import ADAPTED, ARCHITECTURE, EXPERTS, FEED_FORWARD, HIDDEN, LAYERS, expert_model
from support.rotated_models import HIDDEN as ROTATED_HIDDEN
from support.rotated_models import LAYERS as ROTATED_LAYERS
from support.rotated_models import PQ2_0, RotatedModel
from support.tiny_models import logits
from tmac.common.format import TYPES_BY_NAME
from tmac.convert.pipeline import convert

# Measured: up to 1.1e-4, by the rounding of activations; without the adapter or the vector at least 0.15, with them at
# full size instead of half at least 0.085.
LIMIT, FAR = 1e-3, 0.03
ADAPTED_EXPERTS = {"blk.1.ffn_down_exps.weight": (EXPERTS, HIDDEN, FEED_FORWARD)}


def of_experts(folder, name, **options):
    model = expert_model(TYPES_BY_NAME[name], **options)
    adapter = write_adapter(folder / "adapter.gguf", ARCHITECTURE, ADAPTED | ADAPTED_EXPERTS)
    control = write_control_vector(folder / "control.gguf", LAYERS, HIDDEN, 6)
    floats, ours = model.write(folder / "floats.gguf", as_floats=True), model.write(folder / "tmac.gguf")
    return ours, floats, adapter, control


def rotated(folder):
    """Delta nets and attention; `ssm_out` is one of the weights whose input is grouped, too."""
    model = RotatedModel(drafts=False)
    names = [name for name in model.rotated if name.startswith(("blk.0.", f"blk.{ROTATED_LAYERS - 1}."))]
    adapter = write_adapter(folder / "adapter.gguf", "qwen35", {n: model.rotated[n].codes.shape for n in names})
    control = write_control_vector(folder / "control.gguf", ROTATED_LAYERS, ROTATED_HIDDEN, 1)
    ours = folder / "tmac.gguf"
    convert(model.write(folder / "rotated.gguf", PQ2_0), ours, progress=False, log=lambda line: None)
    return ours, model.write(folder / "floats.gguf"), adapter, control


MODELS = {
    "groups": lambda folder: of_experts(folder, "w4g128"),
    "orders": lambda folder: of_experts(folder, "w4g32z", has_orders=True),
    "one scale": lambda folder: of_experts(folder, "w2t"),
    "rotated": rotated,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, build, tmp_path_factory):
    """A model of ours, its floats, an adapter, a control vector, and the floats' logits without these."""
    made = MODELS[request.param](tmp_path_factory.mktemp("model"))
    return *made, logits(build, made[1])


@pytest.mark.parametrize("option", ["--lora", "--control-vector"])
def test_what_changes_a_model_that_runs(build, model, option):
    ours, floats, adapter, control, unchanged = model
    options = (option, adapter if option == "--lora" else control)
    expected = logits(build, floats, *options)
    assert nmse(unchanged, expected) > FAR
    assert nmse(logits(build, ours, *options), expected) < LIMIT


def test_both_at_once_and_less_of_each(build, model):
    ours, floats, adapter, control, unchanged = model
    options = ("--lora-scaled", f"{adapter}:0.5", "--control-vector-scaled", f"{control}:0.5")
    expected = logits(build, floats, *options)
    assert nmse(unchanged, expected) > FAR
    assert nmse(logits(build, floats, "--lora", adapter, "--control-vector", control), expected) > FAR
    assert nmse(logits(build, ours, *options), expected) < LIMIT
