"""Clipping that DeepSpeed does not have, between its averaged fp32 gradients and the optimizer's step.

A hook of torch's optimizers: whatever the stage, the gradients of a step lie in the same buffers as the weights then.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

from toolkit.engines.base import CLIPPING
from toolkit.engines.ds.parts import Keeper, Replicas
from toolkit.engines.ds.thresholds import threshold_of
from toolkit.engines.ds.unit_norms import UnitNorms
from toolkit.specs.clipping import ClippingConfig


class Clipper:
    """Clips what a step is about to apply, on all ranks alike.

    Args:
        config: of the recipe, of another kind than `norm`.
        keeper: of the buffers.
        replicas: who holds the same tensors.
        norm: of the gradients of this step, over all ranks; known when the optimizer steps.
    """

    def __init__(
        self, config: ClippingConfig, keeper: Keeper, replicas: Replicas, *, norm: Callable[[], float]
    ) -> None:
        self._config, self._norm, self._device = config, norm, replicas.device
        self._parts = {holder.flat: holder.parts for holder in keeper.holders}
        units = keeper.holders if config.kind == "agc" else []
        self._units = {holder.flat: UnitNorms(holder, replicas) for holder in units}
        self._threshold = threshold_of(config)
        self._factor: float | None = None
        self._squares = torch.zeros((), dtype=torch.float64, device=self._device)
        keeper.base.register_step_pre_hook(self._before_step)

    def norm_after(self) -> float:
        """L2 norm of the step's gradients after clipping: a collective, and the end of the step."""
        if self._threshold is not None:
            before = self._norm()
            factor, self._factor = self._factor, None
            return before if factor is None else before * factor
        squares, self._squares = self._squares, torch.zeros_like(self._squares)
        dist.all_reduce(squares)
        return math.sqrt(squares.item())

    def counters(self) -> dict[str, float]:
        """What the threshold has learned."""
        return {} if self._threshold is None else {f"{CLIPPING}{k}": v for k, v in self._threshold.counters().items()}

    def set_counters(self, counters: Mapping[str, float]) -> None:
        """Continue with another run's."""
        if self._threshold is not None:
            kept = {name.removeprefix(CLIPPING): value for name, value in counters.items() if name.startswith(CLIPPING)}
            self._threshold.set_counters(kept)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Of one or of all buffers: DeepSpeed steps buffer by buffer."""
        flats = [flat for group in optimizer.param_groups for flat in group["params"] if flat in self._parts]
        if self._threshold is not None:
            if self._factor is None:  # the first buffer of the step
                self._factor = self._threshold.factor(self._norm())
            for flat in flats:
                _gradient(flat).mul_(self._factor)
            return
        for flat in flats:
            gradient = _gradient(flat)
            if self._config.kind == "value":
                gradient.clamp_(-self._config.value, self._config.value)
            else:
                self._units[flat].clip(flat.data, gradient, self._config)
            for part in self._parts[flat]:
                if part.piece.owned:
                    self._squares += part.of(gradient).double().square().sum().to(self._device)


def _gradient(flat: torch.Tensor) -> torch.Tensor:
    assert flat.grad is not None, "a step without gradients"
    return flat.grad
