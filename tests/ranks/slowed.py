"""Ways in which one rank of a run becomes slow, done to real ranks from a step on."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from ranks.runs import finetune
from toolkit.data.loader import GlobalBatches
from toolkit.training.loop import Trainer


def finetune_slowed(folder: Path, rank: int, way: str, after: int, seconds: float) -> None:
    """As `finetune`; from step `after` on that rank loses about so many seconds of each step in its own way."""
    real, begun = Trainer._step, []

    def step(trainer: Trainer, progress: Any, steps: int) -> Any:
        if progress.step >= after and not begun and dist.get_rank() == rank:
            begun.append(WAYS[way](trainer, seconds))
        return real(trainer, progress, steps)

    with mock.patch.object(Trainer, "_step", step):
        finetune(folder)
    for undo in begun:
        undo()


def slow_rows(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """A disk that takes its time."""
    real = GlobalBatches.step
    patch = mock.patch.object(GlobalBatches, "step", lambda *given: (time.sleep(seconds), real(*given))[1])
    patch.start()
    return patch.stop


def slow_forward(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """A device that computes slowly: nothing that the processor would be busy with."""
    model: Any = trainer.engine
    layer = next(module for name, module in model._engine.module.named_modules() if name.endswith("mlp"))
    each = seconds / len(trainer.batches.step(0))
    return layer.register_forward_pre_hook(lambda *_: time.sleep(each)).remove


def slow_backward(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """More work in the backward pass than others have."""
    model: Any = trainer.engine
    heads = [module for name, module in model._engine.module.named_modules() if name.endswith("lm_head")]
    each = seconds / model._grad_accum
    return heads[0].register_full_backward_hook(lambda *_: burn(each)).remove


def slow_optimizer(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """States that come from a slow disk."""
    model: Any = trainer.engine
    optimizer = model._engine.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner.register_step_pre_hook(lambda *_: time.sleep(seconds)).remove


def shared_processor(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """Another process on the same processor, and no other to go to."""
    place = sorted(os.sched_getaffinity(0))[0]
    os.sched_setaffinity(0, {place})
    return in_the_way(spin, place)


def stopped_now_and_then(trainer: Trainer, seconds: float) -> Callable[[], None]:
    """A virtual machine whose host gives it half of the time."""
    return in_the_way(stop_and_go, os.getpid())


WAYS = {
    "data": slow_rows,
    "forward": slow_forward,
    "backward": slow_backward,
    "optimizer": slow_optimizer,
    "shared": shared_processor,
    "stopped": stopped_now_and_then,
    "none": lambda trainer, seconds: lambda: None,
}


def burn(seconds: float) -> None:
    """Compute for as long."""
    end, numbers = time.thread_time() + seconds, torch.ones(64, 64)
    while time.thread_time() < end:
        numbers = numbers @ numbers / 64


def spin(place: int) -> None:
    """Keep a processor busy, as long as the parent lives."""
    os.sched_setaffinity(0, {place})
    parent = os.getppid()
    while os.getppid() == parent:
        burn(0.1)


def stop_and_go(pid: int) -> None:
    """Half of the time the process does not run."""
    while True:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.02)


def in_the_way(body: Callable[[int], None], given: int) -> Callable[[], None]:
    """Another process, until it is asked to end."""
    pid = os.fork()
    if pid == 0:
        try:
            body(given)
        finally:
            os._exit(0)
    last = multiprocessing.util.Finalize(None, os.kill, (pid, signal.SIGKILL), exitpriority=10)

    def end() -> None:
        last.cancel()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    return end
