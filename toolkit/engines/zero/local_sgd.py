"""Replicas that train on their own for some steps, then go on from the mean of their weights (local SGD, DiLoCo)."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from toolkit.engines.base import OUTER_MOMENTUM, States
from toolkit.engines.common.sums import norm_of, root_mean_square
from toolkit.engines.ds.moments import Moments
from toolkit.engines.ds.parts import Keeper, Part
from toolkit.engines.zero.exchange import put_back, sent_together
from toolkit.specs.communication import CommunicationConfig


class Rounds:
    """`Between` that sends weights at the end of each round of steps; `Moments` of what its outer step keeps.

    Whoever reads the weights (a checkpoint, an evaluation, the export) ends the round first: replicas differ within it.

    Args:
        config: of the recipe, with several local steps.
        keeper: of ZeRO-0: all ranks hold the same tensors, in the same order.
        moments: of the optimizer, which differ from replica to replica.
        max_norm: of a replica's own gradients; 0 clips nothing.
    """

    def __init__(self, config: CommunicationConfig, keeper: Keeper, moments: Moments, *, max_norm: float) -> None:
        self._config, self._keeper, self._moments, self._max_norm = config, keeper, moments, max_norm
        self._since = 0
        self.alone = True
        """As `Between`."""
        self._flats = [holder.flat for holder in keeper.holders]
        self._outer: torch.optim.SGD | None = None
        if config.outer_learning_rate != 1 or config.outer_momentum:
            # On copies of the weights as they were when the round began; what replicas have moved by is the gradient.
            anchors = [torch.nn.Parameter(flat.detach().clone()) for flat in self._flats]
            self._outer = torch.optim.SGD(
                anchors,
                lr=config.outer_learning_rate,
                momentum=config.outer_momentum,
                nesterov=config.outer_momentum > 0,
            )
        self._sent_bytes = 0.0
        self._clipped = 0.0

    def reduce(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Each rank keeps its own, clipped by its own norm; DeepSpeed would clip by the mean of the ranks' norms.

        The norm is the root of the replicas' mean square before clipping: no number on any of them is no number on all.
        """
        own_norm = clipped_norm = norm_of(gradients)
        if self._max_norm:
            factor = (self._max_norm / (own_norm + 1e-6)).clamp(max=1.0)
            clipped_norm = own_norm * factor
            for gradient in gradients:
                gradient.mul_(factor)
        norms = root_mean_square(torch.stack([own_norm, clipped_norm]))
        self._clipped = float(norms[1])
        return norms[0]

    def clipped_norm(self) -> float:
        """Root of the replicas' mean square after clipping: each has clipped by a norm of its own."""
        return self._clipped

    def after_step(self, *, skipped: bool) -> None:
        """Count what was taken, and end the round where it is over."""
        self._since += not skipped
        if self._since == self._config.local_steps:
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """End the round, if one has begun."""
        if self._since == 0:
            return
        self._since = 0
        self._average([flat.data for flat in self._flats])
        if self._outer is not None:
            anchors = self._outer.param_groups[0]["params"]
            for anchor, flat in zip(anchors, self._flats, strict=True):
                anchor.grad = anchor.data - flat.data
            self._outer.step()
            for anchor, flat in zip(anchors, self._flats, strict=True):
                flat.data.copy_(anchor.data)
                anchor.grad = None
        self._keeper.finish()

    @torch.no_grad()
    def before_saving(self) -> None:
        """End the round, and give all ranks the same moments too: a checkpoint holds one of each."""
        self.settle()
        self._average([moment for flat in self._flats for moment in self._moments.of(flat).values()])

    def begin_anew(self, num_updates: int) -> None:
        """A round begins: a checkpoint is made between two of them, and all ranks have read the same."""
        self._since = 0

    def take_sent_bytes(self) -> float:
        """As `Between`; what an evaluation or a checkpoint had sent is told with the step after it."""
        taken, self._sent_bytes = self._sent_bytes, 0.0
        return taken

    def of(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outer momentum; zeros before the first outer step."""
        if self._outer is None or not self._config.outer_momentum:
            return {}
        state = self._outer.state[self._anchor(flat)]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(flat.data)
        return {OUTER_MOMENTUM: state["momentum_buffer"]}

    def of_tensor(self, part: Part) -> States:
        """None is kept per tensor."""
        return {}

    def begin(self, flat: torch.Tensor, num_updates: int) -> dict[str, torch.Tensor]:
        """As `Moments`."""
        return self.of(flat)

    def load(self, flat: torch.Tensor, filled: Mapping[str, torch.Tensor]) -> None:
        """The round begins at the weights that were read."""
        if self._outer is not None:
            self._anchor(flat).data.copy_(flat.data)

    def load_tensor(self, part: Part, given: States) -> None:
        """None is kept per tensor."""

    def finish(self, num_updates: int) -> None:
        """As `Moments`."""

    def _anchor(self, flat: torch.Tensor) -> torch.nn.Parameter:
        assert self._outer is not None
        number = next(number for number, one in enumerate(self._flats) if one is flat)
        anchor: torch.nn.Parameter = self._outer.param_groups[0]["params"][number]
        return anchor

    def _average(self, tensors: list[torch.Tensor]) -> None:
        world = dist.get_world_size()
        for members in sent_together(tensors):
            flat = torch.cat([tensor.flatten() for tensor in members]).div_(world)
            dist.all_reduce(flat)
            self._sent_bytes += 2 * (world - 1) / world * flat.nbytes
            put_back(flat, members)
