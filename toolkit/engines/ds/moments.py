"""What an optimizer keeps beside the weights: read in fp32, and put back into one that has taken no step yet."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch.nn.functional import pad
from torch.optim import Optimizer

from toolkit.engines.base import States
from toolkit.engines.ds.parts import Part

_BLOCK = 256
"""Numbers that share a scale in bitsandbytes' 8-bit states."""
_THEIR_NUMBERS = {"exp_avg": 1, "exp_avg_sq": 2}


class Moments(Protocol):
    """The states of one kind of optimizer."""

    def of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Kept per number of a buffer, each as long as it."""

    def of_tensor(self, part: Part) -> States:
        """Kept per tensor, on the rank that speaks for it: of any shape, with names that say so (`base.WHOLE`)."""

    def begin(self, flat: torch.Tensor, num_updates: int) -> dict[str, torch.Tensor]:
        """`of` an optimizer that is about to continue as if it had stepped that often; to be filled."""

    def load(self, flat: torch.Tensor, filled: Mapping[str, torch.Tensor]) -> None:
        """Take over what `begin` gave, filled."""

    def load_tensor(self, part: Part, given: States) -> None:
        """Take over what is kept per tensor."""

    def finish(self, num_updates: int) -> None:
        """After all buffers."""


class PlainMoments:
    """In fp32, as long as the buffer.

    Args:
        optimizer: of torch's kind.
        names: of its states.
    """

    def __init__(self, optimizer: Optimizer, names: tuple[str, ...]) -> None:
        self._optimizer, self._names = optimizer, names

    def of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `Moments`."""
        return {name: self._optimizer.state[flat][name] for name in self._names}

    def of_tensor(self, part: Part) -> States:
        """None is kept per tensor."""
        return {}

    def begin(self, flat: torch.Tensor, num_updates: int) -> dict[str, torch.Tensor]:
        """As `Moments`."""
        state = self._optimizer.state[flat]
        # torch counts in a tensor on the same device, others in a number.
        in_tensor = isinstance(self._optimizer, torch.optim.AdamW)
        state["step"] = torch.tensor(float(num_updates), device=flat.device) if in_tensor else num_updates
        for name in self._names:
            if name not in state:  # a run that goes back has them
                state[name] = torch.zeros_like(flat.data, requires_grad=False)
        return self.of(flat)

    def load(self, flat: torch.Tensor, filled: Mapping[str, torch.Tensor]) -> None:
        """They were filled in place."""

    def load_tensor(self, part: Part, given: States) -> None:
        """None is kept."""

    def finish(self, num_updates: int) -> None:
        """As `Moments`."""
        for group in self._optimizer.param_groups:
            if "step" in group:  # FusedAdam and pytorch_optimizer count by group
                group["step"] = num_updates
        if isinstance(self._optimizer, DeepSpeedCPUAdam):
            _replay(self._optimizer, num_updates)


class QuantisedMoments:
    """Of bitsandbytes: a byte each and a scale per block, or fp32 where a buffer is small.

    Each number is kept with the scale that it was rounded by: a run that goes on in the same layout finds the same
    bytes. By the largest number of its block alone it would not, as -1 has no byte of its own.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def dtype_of(self, flat: torch.Tensor) -> torch.dtype:
        """The type that a buffer's states have, or will have when they are made (bitsandbytes, init_state)."""
        settings = self._optimizer.args
        rounded = settings.optim_bits == 8 and flat.numel() >= settings.min_8bit_size
        return torch.uint8 if rounded else torch.float32

    def of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """As `Moments`."""
        state = self._optimizer.state[flat]
        found: dict[str, torch.Tensor] = {}
        for name, number in _THEIR_NUMBERS.items():
            held, scales = state[f"state{number}"], torch.zeros_like(flat.data)
            if held.dtype == torch.uint8:
                scales = state[f"absmax{number}"].repeat_interleave(_BLOCK)[: flat.numel()]
                held = state[f"qmap{number}"][held.int()] * scales
            found |= {name: held, f"{name}_scale": scales}
        return found

    def of_tensor(self, part: Part) -> States:
        """None is kept per tensor."""
        return {}

    def begin(self, flat: torch.Tensor, num_updates: int) -> dict[str, torch.Tensor]:
        """As `Moments`."""
        optimizer = self._optimizer
        groups = optimizer.param_groups
        # It looks a buffer's settings up among the groups, where ZeRO-3 puts each for its own step only.
        optimizer.param_groups = [{**groups[0], "params": [flat]}]
        optimizer.init_state(optimizer.param_groups[0], flat, 0, 0)
        optimizer.param_groups = groups
        optimizer.state[flat]["step"] = num_updates
        return self.of(flat)

    def load(self, flat: torch.Tensor, filled: Mapping[str, torch.Tensor]) -> None:
        """As `Moments`."""
        state = self._optimizer.state[flat]
        for name, number in _THEIR_NUMBERS.items():
            if state[f"state{number}"].dtype == torch.uint8:
                codes, scales = _quantised(filled[name], filled[f"{name}_scale"], state[f"qmap{number}"])
                state[f"state{number}"].copy_(codes)
                state[f"absmax{number}"].copy_(scales)

    def load_tensor(self, part: Part, given: States) -> None:
        """None is kept."""

    def finish(self, num_updates: int) -> None:
        """Steps are counted per buffer."""


def _quantised(values: torch.Tensor, scales: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of the numbers, and a scale per block: the one that they came with, if they all have, or a new one."""
    padding = -len(values) % _BLOCK
    blocks, came_with = (pad(given, (0, padding)).view(-1, _BLOCK) for given in (values, scales))
    largest = came_with.amax(1)
    same = ((came_with == largest[:, None]) | (came_with == 0)).all(1) & (largest > 0)
    kept = torch.where(same, largest, blocks.abs().amax(1))
    relative = blocks / kept.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(relative, (table[1:] + table[:-1]) / 2)
    return codes.view(-1)[: len(values)].to(torch.uint8), kept


def _replay(optimizer: DeepSpeedCPUAdam, num_updates: int) -> None:
    """Let the C++ side count up: it multiplies beta ** step together, which a jump would compute with other roundings.

    Without it a resumed run departs by 1e-7 in every weight.
    """
    group = optimizer.param_groups[0]
    number, gradient, first, second = (torch.zeros(1) for _ in range(4))
    for step in range(1, num_updates + 1):
        optimizer.ds_opt_adam.adam_update(
            optimizer.opt_id, step, 0.0, *group["betas"], group["eps"], 0.0, True, number, gradient, first, second
        )
