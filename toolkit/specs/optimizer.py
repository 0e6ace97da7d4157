"""The optimizers, what each keeps, and its numbers as the recipe has them."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field

from toolkit.specs.base import Spec

OptimizerName = Literal[
    "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "lion", "sgd", "adafactor", "muon", "soap"
]


class OptimizerKind(NamedTuple):
    """What one optimizer keeps, and what it asks of an engine."""

    library: str
    """Where the implementation comes from; those of other projects come with the extras `optimizers` and `quant`."""
    states: tuple[str, ...] = ()
    """Kept for every trained number, in fp32 or made of it; those of whole tensors are the library's business."""
    state_bytes: float = 0.0
    """Bytes per trained number on the device, beside weight and gradient; of what depends on shapes, the usual."""
    whole: bool = False
    """Looks at rows and columns: a rank needs all of a tensor to update any of it."""
    gpu_only: bool = False
    """Lives on memory that the GPU's driver moves."""
    options: tuple[str, ...] = ("weight_decay",)
    """What it looks at besides learning rate and groups; a recipe that sets another one is refused."""


_ADAM = ("exp_avg", "exp_avg_sq")
_ADAM_OPTIONS = ("beta1", "beta2", "eps", "weight_decay")

OPTIMIZERS: dict[OptimizerName, OptimizerKind] = {
    "adamw": OptimizerKind("DeepSpeed or torch", _ADAM, 8.0, options=_ADAM_OPTIONS),
    # Dettmers et al. 2021, 2110.02861: one byte per moment, and a scale per 256 of them.
    "adamw_8bit": OptimizerKind("bitsandbytes", _ADAM, 2 + 2 * 4 / 256, options=_ADAM_OPTIONS),
    "paged_adamw": OptimizerKind("bitsandbytes", _ADAM, 0.0, gpu_only=True, options=_ADAM_OPTIONS),
    "paged_adamw_8bit": OptimizerKind("bitsandbytes", _ADAM, 0.0, gpu_only=True, options=_ADAM_OPTIONS),
    # Chen et al. 2023, 2302.06675.
    "lion": OptimizerKind("pytorch_optimizer", ("exp_avg",), 4.0, options=("beta1", "beta2", "weight_decay")),
    "sgd": OptimizerKind("torch", ("momentum_buffer",), 4.0, options=("momentum", "weight_decay")),
    # Shazeer & Stern 2018, 1804.04235: a row and a column per matrix.
    "adafactor": OptimizerKind("torch", state_bytes=0.0, whole=True),
    # Jordan 2024 and Liu et al. 2025, 2502.16982: matrices of the layers; AdamW updates the rest.
    "muon": OptimizerKind("torch", state_bytes=4.0, whole=True, options=("momentum", *_ADAM_OPTIONS)),
    # Vyas et al. 2024, 2409.11321: AdamW in the eigenbasis of Shampoo's preconditioners, two squares per matrix each.
    "soap": OptimizerKind("pytorch_optimizer", state_bytes=8.0 + 2 * 8.0, whole=True, options=_ADAM_OPTIONS),
}
OPTIMIZER_NAMES: tuple[OptimizerName, ...] = get_args(OptimizerName)

ADVISED: dict[OptimizerName, dict[str, float]] = {
    # A third to a tenth of AdamW's rate (2302.06675, section 5).
    "lion": {"learning_rate": 5e-6, "beta2": 0.99},
    # Its steps are as large as the gradients, whose numbers are small.
    "sgd": {"learning_rate": 2e-3},
    # A part of each tensor's own size, not of 1: T5 was fine-tuned at this one (Raffel et al. 2020, 1910.10683, section
    # 3.1.2), which moves a weight of the usual 0.02 by AdamW's 2e-5. torch's own is 1e-2, of training from scratch.
    "adafactor": {"learning_rate": 1e-3},
    "soap": {"beta1": 0.95, "beta2": 0.95},
    "muon": {"momentum": 0.95},
}
"""Where an optimizer's authors advise something else than the fields' own defaults, which are AdamW's."""


class ParameterGroup(Spec):
    """Tensors that are trained differently from the rest."""

    match: str = Field(min_length=1)
    """Names of the model's tensors, with * and ?: `*embed_tokens.weight`, `*layers.3.*`, `*lora_B*`. The first group
    that matches a tensor takes it."""
    learning_rate_ratio: float = Field(default=1.0, ge=0)
    """Part of the schedule's rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """In the place of the optimizer's."""


class OptimizerConfig(Spec):
    """The numbers of `workload.optimizer`; of AdamW the fastest implementation runs that the machine can build."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate, reached at the end of the warm-up.

    2e-5 where nothing is given, 5e-6 in lion, 2e-3 in sgd, 1e-3 in adafactor, where it is a part of a tensor's size."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment; 0.95 in soap."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment; 0.99 in lion, 0.95 in soap."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd, and of muon: 0.95."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; of matrices, not of norms, biases and embeddings.

    That of sgd is torch's: weight_decay x weight is added to the clipped gradient, and goes through the momentum."""
    decay_all: bool = False
    """Let norms, biases and embeddings decay too."""
    groups: tuple[ParameterGroup, ...] = ()
    """Tensors with a learning rate or weight decay of their own."""

    def of(self, name: OptimizerName) -> "OptimizerConfig":
        """The same, with what that optimizer's authors advise where nothing was given.

        Raises:
            ValueError: a number was given that it does not look at.
        """
        known, looked_at = {option for kind in OPTIMIZERS.values() for option in kind.options}, OPTIMIZERS[name].options
        fields = type(self).model_fields
        # A recipe that was written out holds the defaults of all.
        changed = {option for option in known if getattr(self, option) != fields[option].default}
        if unused := sorted(changed - set(looked_at)):
            raise ValueError(f"{', '.join(unused)} given, {name} looks at {', '.join(looked_at)} only; leave it out")
        advised = {key: value for key, value in ADVISED.get(name, {}).items() if key not in self.model_fields_set}
        return self.model_copy(update=advised)


def without_advice(numbers: Mapping[str, Any], *, of: OptimizerName) -> dict[str, Any]:
    """The `optimizer` of a recipe that was written for one optimizer, as another one may take it over.

    What is equal to the first one's own defaults was in all likelihood never given, so the other one's take its place.

    Args:
        numbers: as the file has them.
        of: which optimizer they are of.
    """
    usual = OptimizerConfig().of(of)
    return {name: value for name, value in numbers.items() if not _is(value, getattr(usual, name, None))}


def _is(value: Any, number: Any) -> bool:
    """Also where YAML has read 2e-5 as text."""
    try:
        return not isinstance(value, bool) and float(value) == number
    except (TypeError, ValueError):
        return False
