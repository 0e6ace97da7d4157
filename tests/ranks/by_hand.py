"""Optimizers and clipping of the run in one process: the libraries' own, and the papers' formulas, on whole tensors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import bitsandbytes
import numpy
import pytorch_optimizer
import torch

from toolkit.specs.clipping import ClippingConfig
from toolkit.specs.optimizer import OptimizerName

Clip = Callable[[Sequence[torch.Tensor]], None]
"""Changes the gradients of all weights in place."""


def optimizers_by_hand(
    name: OptimizerName, groups: dict[str, dict[str, Any]], *, fused: bool = False
) -> list[torch.optim.Optimizer]:
    """What updates the weights, one group for each, by name; a fused AdamW rounds an update once, to bf16."""
    every = list(groups.values())
    match name:
        case "adamw":
            return [torch.optim.AdamW(every, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=fused)]
        case "adamw_8bit":
            return [_HalvesIn8Bit(every)]
        case "lion":
            return [pytorch_optimizer.Lion(every, lr=0.0, betas=(0.9, 0.99))]
        case "sgd":
            return [torch.optim.SGD(every, lr=0.0, momentum=0.9)]
        case "adafactor":
            return [torch.optim.Adafactor(every, lr=0.0)]
        case "soap":
            return [pytorch_optimizer.SOAP(every, lr=0.0, betas=(0.95, 0.95), eps=1e-8)]
        case "muon":
            hidden = [group for key, group in groups.items() if ".layers." in key and "norm" not in key]
            others = [group for key, group in groups.items() if ".layers." not in key or "norm" in key]
            return [
                torch.optim.Muon(hidden, lr=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
                torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.999), eps=1e-8),
            ]
    raise ValueError(name)


class _HalvesIn8Bit(torch.optim.Optimizer):
    """bitsandbytes over all weights end to end, in two halves: numbers share their scales as on two ranks.

    Tensor by tensor it trains on other scales: 7e-4 in the loss after 20 steps.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        weights = [weight for group in groups for weight in group["params"]]
        size = sum(weight.numel() for weight in weights)
        assert size % 4 == 0, "DeepSpeed would pad"
        self._weights = weights
        self._halves = [torch.nn.Parameter(half.clone()) for half in self._flat(weights).split(size // 2)]
        same = {key: value for key, value in groups[0].items() if key != "params"}
        self._inner = bitsandbytes.optim.AdamW8bit([{**same, "params": self._halves}], lr=0.0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradients = self._flat([_gradient(weight) for weight in self._weights])
        for half, gradient in zip(self._halves, gradients.split(len(self._halves[0])), strict=True):
            half.grad = gradient.clone()
        self._inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._inner.step()
        updated = torch.cat([half.data for half in self._halves])
        for weight, numbers in zip(self._weights, updated.split([w.numel() for w in self._weights]), strict=True):
            weight.copy_(numbers.view(weight.shape))

    @staticmethod
    def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors])


def total_norm(weights: Sequence[torch.Tensor]) -> float:
    """L2 norm of all gradients."""
    return float(torch.linalg.vector_norm(torch.cat([_gradient(weight).flatten() for weight in weights]).double()))


def at_least_fp32(tensor: torch.Tensor) -> torch.Tensor:
    """16 bits in 32, fp64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def norm_clipped(weights: Sequence[torch.Tensor], *, largest: float) -> None:
    """By torch, with the norm in fp32 or better."""
    norm = torch.nn.utils.get_total_norm([at_least_fp32(_gradient(weight)) for weight in weights])
    torch.nn.utils.clip_grads_with_norm_(weights, largest, norm)


class Clipped:
    """The kinds that torch does not have; the thresholds of a run are learned from its own norms."""

    def __init__(self, config: ClippingConfig) -> None:
        self._config = config
        self._norms: list[float] = []
        self._mean = self._variance = 0.0

    def __call__(self, weights: Sequence[torch.Tensor]) -> None:
        config = self._config
        if config.kind == "value":
            torch.nn.utils.clip_grad_value_(weights, config.value)
        elif config.kind == "agc":
            for weight in weights:
                gradient, dims = _gradient(weight), -1 if weight.ndim > 1 else None
                largest = weight.norm(dim=dims, keepdim=True).clamp(min=config.floor) * config.ratio
                norms = gradient.norm(dim=dims, keepdim=True)
                gradient.copy_(torch.where(norms > largest, gradient * largest / norms.clamp(min=1e-6), gradient))
        else:
            norm = total_norm(weights)
            factor = min(1.0, (self._zclip(norm) if config.kind == "zclip" else self._percentile(norm)) / norm)
            for weight in weights:
                _gradient(weight).mul_(factor)

    def _percentile(self, norm: float) -> float:
        self._norms = [*self._norms, norm][-self._config.window :]
        return float(numpy.percentile(self._norms, self._config.percentile))

    def _zclip(self, norm: float) -> float:
        config = self._config
        if len(self._norms) < config.warmup_steps:
            self._norms.append(norm)
            self._mean, self._variance = float(numpy.mean(self._norms)), float(numpy.var(self._norms))
            return norm
        z = (norm - self._mean) / math.sqrt(self._variance)
        clipped = self._mean + config.zscore**2 / z * math.sqrt(self._variance) if z > config.zscore else norm
        self._variance = config.decay * self._variance + (1 - config.decay) * (clipped - self._mean) ** 2
        self._mean = config.decay * self._mean + (1 - config.decay) * clipped
        return clipped


def _gradient(weight: torch.Tensor) -> torch.Tensor:
    assert weight.grad is not None
    return weight.grad
