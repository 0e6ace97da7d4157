"""The optimizers, what each keeps, and its numbers as the recipe has them."""

from typing import Literal, NamedTuple, get_args

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

_DEFAULTS: dict[OptimizerName, dict[str, float]] = {
    "lion": {"beta2": 0.99},
    "soap": {"beta1": 0.95, "beta2": 0.95},
    "muon": {"momentum": 0.95},
}
"""Where an optimizer's authors advise something else than the fields' own defaults."""


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

    Lion wants a third to a tenth of AdamW's, sgd a hundred times it."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment; 0.95 in soap."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment; 0.99 in lion, 0.95 in soap."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd, and of muon: 0.95."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; of matrices, not of norms, biases and embeddings."""
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
        advised = {key: value for key, value in _DEFAULTS.get(name, {}).items() if key not in self.model_fields_set}
        return self.model_copy(update=advised)
