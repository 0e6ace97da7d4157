"""An optimizer that looks at rows and columns, over the flat buffers that DeepSpeed divides without regard to them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from toolkit.engines.base import WHOLE, States
from toolkit.engines.common.groups import Group
from toolkit.engines.ds.parts import Holder, Keeper, Part


class WholeTensors(Optimizer):
    """Runs another optimizer per buffer on the tensors in it, each in its shape; `Moments` of what that keeps.

    ZeRO-1 and 2 cut one long buffer: most tensors lie on one rank in whole, which updates them alone. The few that lie
    across a cut are put together for the update (a sum over the ranks of gradient and weight): each rank that holds a
    part of one makes the same update and keeps its part of it.

    Args:
        groups: parameters and settings; DeepSpeed puts its buffers in the place of the parameters.
        make: one group -> the optimizer that does the work.
    """

    def __init__(self, groups: list[Group], make: Callable[[Group], Optimizer]) -> None:
        super().__init__(groups, {"lr": 0.0})
        self._make = make
        self._buffers: dict[torch.Tensor, _Buffer] = {}

    def bind(self, keeper: Keeper, *, group: dist.ProcessGroup | None) -> None:
        """Find the tensors in the buffers once DeepSpeed has made them; a collective.

        Args:
            keeper: of the buffers.
            group: the ranks that divide them; None where each rank has them in whole.
        """
        settings = {flat: each for each in self.param_groups for flat in each["params"]}
        for holder in keeper.holders:
            everywhere = [[part.tensor.name for part in holder.parts]]
            shapes = {part.tensor.name: part.tensor.shape for part in holder.parts}
            if group is not None:
                held: list[Any] = [None] * dist.get_world_size(group)
                dist.all_gather_object(held, shapes, group=group)
                everywhere, shapes = [list(each) for each in held], {k: v for each in held for k, v in each.items()}
            cut = {
                name: shape for name, shape in sorted(shapes.items()) if sum(name in here for here in everywhere) > 1
            }
            own = {name: value for name, value in settings[holder.flat].items() if name not in ("params", "lr")}
            tensors = {part.tensor.name: torch.nn.Parameter(torch.empty(part.tensor.shape)) for part in holder.parts}
            inner = self._make({**own, "params": list(tensors.values())}) if tensors else None
            self._buffers[holder.flat] = _Buffer(holder, tensors, inner, cut, group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update what the current groups hold; nothing before `bind`, when DeepSpeed tries it out."""
        for group in self.param_groups:
            for flat in group["params"]:
                if flat in self._buffers:
                    self._buffers[flat].update(group["lr"])

    def of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """None is kept per number."""
        return {}

    def of_tensor(self, part: Part) -> States:
        """All that is kept, on the rank that has the beginning of the tensor."""
        if not part.owned or part.start:
            return {}
        return {f"{WHOLE}{name}": tensor for name, tensor in _tensors(self._state(part))}

    @torch.no_grad()
    def begin(self, flat: torch.Tensor, num_updates: int) -> dict[str, torch.Tensor]:
        """Let the states be made; the weights are about to be read."""
        self._buffers[flat].make_states()
        return {}

    def load(self, flat: torch.Tensor, filled: Mapping[str, torch.Tensor]) -> None:
        """None is kept per number."""

    def load_tensor(self, part: Part, given: States) -> None:
        """On all ranks that hold a part of the tensor."""
        for name, tensor in _tensors(self._state(part)):
            tensor.copy_(given[f"{WHOLE}{name}"])

    def finish(self, num_updates: int) -> None:
        """Count on."""
        for buffer in self._buffers.values():
            buffer.count(num_updates)

    def _state(self, part: Part) -> dict[str, Any]:
        return next(found for buffer in self._buffers.values() if (found := buffer.state(part)) is not None)


@dataclass(frozen=True)
class _Buffer:
    """One of DeepSpeed's flat buffers, the tensors that lie in it, and the optimizer that updates them."""

    holder: Holder
    tensors: Mapping[str, torch.nn.Parameter]
    """In their shapes, by name; views into the buffer where they lie in it in whole."""
    inner: Optimizer | None
    """None on a rank with no tensor."""
    cut: Mapping[str, tuple[int, ...]]
    """Shapes of the tensors that several ranks hold parts of; the same on all of them, and in the same order."""
    group: dist.ProcessGroup | None
    """The ranks that divide the buffer."""

    def update(self, learning_rate: float) -> None:
        flat, parts = self.holder.flat, {part.tensor.name: part for part in self.holder.parts}
        assert flat.grad is not None, "an update without gradients"
        for name, tensor in self.tensors.items():
            if name not in self.cut:
                tensor.data = parts[name].of(flat.data).view(tensor.shape)
                tensor.grad = parts[name].of(flat.grad).view(tensor.shape)
        for name, shape in self.cut.items():
            # Ranks that hold nothing of it take part: they are of the same group.
            both = flat.new_zeros(2, torch.Size(shape).numel())
            if name in parts:
                part = parts[name]
                both[0, part.start : part.stop], both[1, part.start : part.stop] = (
                    part.of(flat.data),
                    part.of(flat.grad),
                )
            dist.all_reduce(both, group=self.group)
            if name in parts:
                self.tensors[name].data, self.tensors[name].grad = both[0].view(shape), both[1].view(shape)
        self._step(learning_rate)
        for name in self.cut:
            if name in parts:
                part = parts[name]
                part.of(flat.data).copy_(self.tensors[name].data.view(-1)[part.start : part.stop])

    def make_states(self) -> None:
        """By a step at a rate of 0 on gradients of 0, where none was taken yet."""
        for tensor in self.tensors.values():
            tensor.data = torch.zeros_like(tensor, device=self.holder.flat.device)
            tensor.grad = torch.zeros_like(tensor)
        if self.inner is not None and not self.inner.state:
            self._step(0.0)

    def _step(self, learning_rate: float) -> None:
        if self.inner is None:
            return
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        self.inner.step()
        for tensor in self.tensors.values():
            tensor.grad = None

    def state(self, part: Part) -> dict[str, Any] | None:
        """Of the tensor, if it lies in this buffer."""
        if self.inner is None or part not in self.holder.parts:
            return None
        found: dict[str, Any] = self.inner.state[self.tensors[part.tensor.name]]
        return found

    def count(self, num_updates: int) -> None:
        """Continue as if that many steps were taken."""
        if self.inner is None:
            return
        for group in self.inner.param_groups:
            if "step" in group:
                group["step"] = num_updates
        for state in self.inner.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"].fill_(num_updates)
            elif "step" in state:
                state["step"] = num_updates


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """What an optimizer keeps of a tensor, its counter aside; those in a list by their number in it."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and name != "step":
            yield name, value
        elif isinstance(value, list):
            yield from (
                (f"{name}.{number}", each) for number, each in enumerate(value) if isinstance(each, torch.Tensor)
            )
