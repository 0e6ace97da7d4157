"""Which steps are bad: a loss or gradients that are not finite, a loss scale too large that stays or has collapsed, a
loss that jumps."""

import math
import statistics
from collections import deque

from toolkit.engines.base import StepResult
from toolkit.specs.reliability import FaultConfig

_LEAST_SCALE = 1.0


class Judge:
    """Looks at every step of a run.

    Args:
        config: of the recipe.
        scales_loss: fp16, where gradients overflow now and then and the loss scale follows; where it is static, an
            overflow is a bad step.
    """

    def __init__(self, config: FaultConfig, *, scales_loss: bool) -> None:
        self._config, self._scales_loss = config, scales_loss
        self._losses: deque[float] = deque(maxlen=config.spike_window)

    def fault(self, result: StepResult) -> str | None:
        """What is wrong with a step; None if nothing is."""
        if not math.isfinite(result.loss):
            return f"the loss is {result.loss}"
        if not self._scales_loss and (result.skipped or not math.isfinite(result.grad_norm)):
            return "the gradients hold NaN or Inf"
        if self._scales_loss and result.skipped and (result.static_scale or result.loss_scale <= _LEAST_SCALE):
            stays = ", which stays; lower fp16.loss_scale in ds_config.json" if result.static_scale else ""
            return f"the gradients overflow in fp16 at a loss scale of {result.loss_scale:g}{stays}"
        if (jump := self._jump(result.loss)) is not None:
            return jump
        self._losses.append(result.loss)
        return None

    def _jump(self, loss: float) -> str | None:
        threshold = self._config.spike_zscore
        if threshold is None or len(self._losses) < self._config.spike_window:
            return None
        mean, deviation = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        if loss - mean <= threshold * deviation:
            return None
        score = (loss - mean) / deviation if deviation else math.inf
        return f"the loss jumps to {loss:.4f}, {score:.1f} standard deviations above the last {len(self._losses)} steps"
