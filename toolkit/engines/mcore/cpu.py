"""Lets megatron-core run where there is no GPU: for tests, and to rehearse a layout before it costs anything."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from megatron.core.tensor_parallel import random
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")


@contextmanager
def cpu_as_cuda() -> Iterator[None]:
    """Within it `cuda` means the CPU, to Megatron and to whoever else asks; nothing at all where there is a GPU.

    Megatron writes `device="cuda"` out, in about forty places, and has no other door ("There is no CPU-only path in
    Megatron Core", NVIDIA-NeMo/Speech#14244).
    """
    if torch.cuda.is_available():
        yield
        return

    def state(*_: Any, **__: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(new: torch.Tensor, *_: Any, **__: Any) -> None:
        torch.set_rng_state(new)

    of_torch: dict[str, Any] = {
        "current_device": lambda: _CPU,
        "synchronize": lambda *_: None,
        "manual_seed": torch.manual_seed,
        "get_rng_state": state,
    }
    of_megatron: dict[str, Any] = {"_get_cuda_rng_state": state, "_set_cuda_rng_state": set_state}
    with mock.patch.multiple(torch.cuda, **of_torch), mock.patch.multiple(random, **of_megatron), _CudaIsCpu():
        yield


class _CudaIsCpu(TorchFunctionMode):
    """Sees every call of torch, also those of the backward pass and of the optimizer."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        given = dict(kwargs or {})
        given.pop("pin_memory", None)  # there is nothing to copy to
        if given.get("device") is not None and torch.device(given["device"]).type == "cuda":
            given["device"] = _CPU
        result = func(*args, **given)
        # The distributed optimizer asks whether a parameter's type is "torch.cuda.FloatTensor".
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.", 1)
        return result
