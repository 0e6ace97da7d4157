"""The recipe's optimizer, AdamW in the fastest implementation that this machine can build, and what it keeps."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from torch.optim import SGD, Adafactor, AdamW, Muon, Optimizer

from toolkit.engines.common.groups import HIDDEN_MATRIX, Group
from toolkit.engines.ds.moments import Moments, PlainMoments, QuantisedMoments
from toolkit.engines.ds.ops import BUILD_FAILURES, load_op
from toolkit.engines.ds.whole import WholeTensors
from toolkit.errors import MachineError
from toolkit.specs.optimizer import OPTIMIZERS, OptimizerConfig, OptimizerName


class Built(NamedTuple):
    """An optimizer, ready for `deepspeed.initialize`."""

    optimizer: Optimizer
    moments: Moments
    """What it keeps."""
    note: str
    """Which implementation it is, and why."""


def build_optimizer(
    groups: list[Group], config: OptimizerConfig, name: OptimizerName, *, device: torch.device, offload: bool
) -> Built:
    """The optimizer over the trainable parameters.

    The learning rate starts at 0 and is set before every step: with bf16 or fp16 and ZeRO-0 DeepSpeed takes a step of
    its own while it starts, which must not move (or decay) the weights.

    Args:
        groups: of `parameter_groups`; the parameters are partitioned already under ZeRO-3.
        config: its numbers; decay and parts of the rate are in the groups.
        name: which.
        device: where the step runs unless `offload`.
        offload: the states live in host memory, so the step runs on the CPU.

    Raises:
        MachineError: its library is not installed.
    """
    kind = OPTIMIZERS[name]
    if name == "adamw":
        optimizer, note = _adamw(groups, config, device=device, offload=offload)
    elif kind.whole:
        make = functools.partial(_OF_WHOLE_TENSORS[name], config=config)
        whole = WholeTensors(groups, make)
        return Built(whole, whole, f"optimizer: {name} of {kind.library}, over whole tensors")
    else:
        optimizer, note = _by_number(groups, config, name), f"optimizer: {name} of {kind.library}"
    if kind.library == "bitsandbytes":
        return Built(optimizer, QuantisedMoments(optimizer), note)
    return Built(optimizer, PlainMoments(optimizer, kind.states), note)


def _by_number(groups: list[Group], config: OptimizerConfig, name: OptimizerName) -> Optimizer:
    """One that updates each number for itself: it may see them in any order and in any parts."""
    betas = (config.beta1, config.beta2)
    if name == "sgd":
        return SGD(groups, lr=0.0, momentum=config.momentum)
    if name == "lion":
        return _library("pytorch_optimizer").Lion(groups, lr=0.0, betas=betas)  # type: ignore[no-any-return]
    theirs = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}[name]
    return getattr(_library("bitsandbytes").optim, theirs)(groups, lr=0.0, betas=betas, eps=config.eps)  # type: ignore[no-any-return]


def _adafactor(group: Group, config: OptimizerConfig) -> Optimizer:
    return Adafactor([group], lr=0.0)


def _muon(group: Group, config: OptimizerConfig) -> Optimizer:
    if not group[HIDDEN_MATRIX]:
        return AdamW([group], lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps)
    # Updates as large as AdamW's, so that its learning rates do for both (Liu et al. 2025, section 2.2).
    return Muon([group], lr=0.0, momentum=config.momentum, adjust_lr_fn="match_rms_adamw")


def _soap(group: Group, config: OptimizerConfig) -> Optimizer:
    betas = (config.beta1, config.beta2)
    return _library("pytorch_optimizer").SOAP([group], lr=0.0, betas=betas, eps=config.eps)  # type: ignore[no-any-return]


_OF_WHOLE_TENSORS: dict[OptimizerName, Callable[..., Optimizer]] = {
    "adafactor": _adafactor,
    "muon": _muon,
    "soap": _soap,
}


def _library(name: str) -> Any:
    """A library that only some optimizers need.

    Raises:
        MachineError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(
            f"{name}: not installed or broken ({error}); pip install -c constraints.txt -e '.[train,optimizers,quant]' "
            "in the toolkit's own folder, or plan again with --optimizer adamw"
        ) from None


def _adamw(
    groups: list[Group], config: OptimizerConfig, *, device: torch.device, offload: bool
) -> tuple[Optimizer, str]:
    betas, eps = (config.beta1, config.beta2), config.eps
    if offload and (failure := _build_failure("CPUAdamBuilder", device)) is None:
        cpu_adam = DeepSpeedCPUAdam(groups, lr=0.0, betas=betas, eps=eps, adamw_mode=True)
        return cpu_adam, "optimizer: DeepSpeedCPUAdam (states in host memory)"
    if offload:
        adamw = AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
        return adamw, f"optimizer: torch fused AdamW on the CPU (DeepSpeedCPUAdam does not build here: {failure})"
    if device.type == "cuda" and (failure := _build_failure("FusedAdamBuilder", device)) is None:
        fused = FusedAdam(groups, lr=0.0, betas=betas, eps=eps, adam_w_mode=True)
        return fused, "optimizer: DeepSpeed FusedAdam"
    adamw = AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    if device.type == "cuda":
        return adamw, f"optimizer: torch fused AdamW (FusedAdam does not build here: {failure})"
    return adamw, "optimizer: torch fused AdamW"


def forget_dummy_step(optimizer: Optimizer) -> None:
    """Let the optimizer begin anew after the engine has started.

    DeepSpeed's bf16/fp16 optimizer of ZeRO-0 steps once on zero gradients when it is made, so that Adam's bias
    correction would be one step ahead: loss off by 6e-3 after 20 steps, 4e-4 (bf16's rounding) with this.
    """
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group.pop("step", None)


def _build_failure(builder_name: str, device: torch.device) -> str | None:
    """None if DeepSpeed's op builds on every rank, else the first line of the reason."""
    failure = None
    try:
        load_op(builder_name)
    except BUILD_FAILURES as error:
        failure = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # All ranks must run the same implementation, so one rank's failure is everybody's.
    failed = torch.tensor([int(failure is not None)], device=device)
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    return failure or ("it failed on another rank" if failed.item() else None)
