"""What keeps one batch from moving the weights too far, as the recipe has it."""

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec

ClippingKind = Literal["norm", "value", "agc", "zclip", "percentile"]

_OPTIONS: dict[str, tuple[ClippingKind, ...]] = {
    "value": ("value",),
    "ratio": ("agc",),
    "floor": ("agc",),
    "zscore": ("zclip",),
    "decay": ("zclip",),
    "warmup_steps": ("zclip",),
    "percentile": ("percentile",),
    "window": ("percentile",),
}


class ClippingConfig(Spec):
    """Gradients are clipped after all ranks' have been averaged, in fp32, and before the optimizer sees them."""

    kind: ClippingKind = "norm"
    """`norm`: all by one factor, so that their norm is at most `gradient_clipping` of ds_config.json; `value`: each
    number; `agc`: each row of a matrix; `zclip` and `percentile`: as norm, at a threshold that follows the run."""
    value: float = Field(default=1.0, gt=0)
    """Of `value`: largest magnitude of a number."""
    ratio: float = Field(default=0.01, gt=0)
    """Of `agc`: largest norm of a row's gradient, as a part of the norm of the row's weights (2102.06171, equation 3).
    """
    floor: float = Field(default=1e-3, gt=0)
    """Of `agc`: rows whose norm is smaller count as this, or they could never leave 0."""
    zscore: float = Field(default=2.5, gt=0)
    """Of `zclip`: standard deviations above the mean of the recent norms, from which on a norm is clipped (2504.02507).
    """
    decay: float = Field(default=0.97, gt=0, lt=1)
    """Of `zclip`: what a step leaves of the mean and variance before it."""
    warmup_steps: int = Field(default=25, gt=1)
    """Of `zclip`: first steps, which are not clipped; they make the first mean and variance."""
    percentile: float = Field(default=10.0, gt=0, lt=100)
    """Of `percentile`: of the recent norms, this one's among them; larger ones are clipped to it (AutoClip,
    2007.14469)."""
    window: int = Field(default=100, gt=1)
    """Of `percentile`: steps that count as recent."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name, kinds in _OPTIONS.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of kind {' and '.join(kinds)}, kind is {self.kind}; leave it out")
        return self
