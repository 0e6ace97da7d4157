"""What engine mcore does not do, of models and of recipes; the rest of its limits is in rules.py and step_rules.py.

Checked with megatron-core 0.16.1 (core/models/common/embeddings/rotary_pos_embedding.py, core/transformer/attention.py,
core/optimizer/clip_grads.py).
"""

from collections.abc import Iterator

from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe

ROPE_TYPES = ("linear", "llama3")
"""Stretched rotary embeddings whose frequencies are the same at every position and for every length."""


def layer_gaps(model: ModelSpec, *, seq_len: int) -> tuple[str, ...]:
    """What a model's layers compute and the engine's do not, each as 'given: what is at odds; what to use'."""
    return tuple(_layer_gaps(model, seq_len))


def _layer_gaps(model: ModelSpec, seq_len: int) -> Iterator[str]:
    scaling, window = model.rope_scaling, model.sliding_window
    if scaling is not None and scaling.rope_type not in ROPE_TYPES:
        # yarn and longrope scale the attention too, dynamic changes with the length of a row.
        yield (
            f"rope_type={scaling.rope_type} of {model.name}: engine mcore turns by fixed frequencies alone, default, "
            f"{' or '.join(ROPE_TYPES)}; use engine=zero"
        )
    for name, layers in (("attention_bias", "q, k, v and o"), ("mlp_bias", "gate, up and down")):
        if getattr(model, name):
            yield f"{name}=true of {model.name}: engine mcore has {layers} without biases; use engine=zero"
    if window is not None and window < seq_len:
        yield (
            f"seq_len={seq_len} exceeds {model.name}'s sliding_window {window}: engine mcore attends to all tokens "
            f"before; use seq_len={window} or less, or engine=zero"
        )


def recipe_gaps(recipe: Recipe) -> Iterator[str]:
    """What a recipe asks for and the engine does not do, in the same form."""
    if recipe.clipping.kind != "norm":
        yield f"clipping.kind={recipe.clipping.kind}: engine mcore clips all gradients by one factor; use norm"
    if recipe.neftune_alpha is not None:
        yield f"neftune_alpha={recipe.neftune_alpha:g}: engine mcore adds no noise to embeddings; leave it out"
    if recipe.workload.method == "full":
        return
    if recipe.lora.dora:
        yield "lora.dora=true: engine mcore learns no lengths of rows; use lora.dora=false"
    if recipe.lora.dropout > 0:
        # Ranks of a tensor-parallel group would have to draw one mask for the tokens that they share.
        yield f"lora.dropout={recipe.lora.dropout:g}: engine mcore has no dropout before adapters; use 0"
