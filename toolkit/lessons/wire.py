"""What ranks say to each other: every lesson is made of these few calls, and counts what they send."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist


@dataclass
class Wire:
    """One rank's end of the wire to all others."""

    rank: int
    """0 .. world_size - 1."""
    world_size: int
    """Ranks that take part."""
    sent_bytes: int = 0
    """By this rank, so far."""
    _posted: list[tuple[dist.Work | None, torch.Tensor]] = field(default_factory=list)

    @property
    def right(self) -> int:
        """The next rank of the ring."""
        return (self.rank + 1) % self.world_size

    @property
    def left(self) -> int:
        """The rank before this one."""
        return (self.rank - 1) % self.world_size

    def send(self, tensor: torch.Tensor, *, to: int) -> None:
        """Post the tensor as it is now, and go on: a rank that waited for its receiver would stop a whole ring."""
        letter = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._posted.append((dist.isend(letter, to), letter))
        self.sent_bytes += letter.nbytes

    def receive(self, like: torch.Tensor, *, source: int) -> torch.Tensor:
        """Wait for the next tensor that `source` has sent; its shape and type are those of `like`."""
        received = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(received, source)
        return received

    def receive_first(self, like: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Wait for whoever speaks first: (tensor, rank that sent it)."""
        received = torch.empty_like(like, memory_format=torch.contiguous_format)
        source = dist.recv(received)
        return received, source

    def settle(self) -> None:
        """Wait until all that was posted has been fetched."""
        for work, _ in self._posted:
            if work is not None:
                work.wait()
        self._posted.clear()
