"""What every engine can do; the training loop, evaluation, checkpoints and export know nothing else about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Batch = Mapping[str, torch.Tensor]
"""`input_ids`, `attention_mask` and `labels`, each int64 [micro_batch, seq]; label -100 is not supervised. Packed rows
have `position_ids` too, which begin again with every document: none sees another one. Rows that noise is added to have
`noise_seeds`, int64 [micro_batch]."""


BUSY = ("forward", "backward", "passes", "optimizer")
"""Parts of a step in which a rank computes; `passes` are forward and backward together."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, equal on all ranks but for the time that it took each."""

    loss: float
    """Mean cross-entropy over all supervised tokens of the global batch, in nats."""
    grad_norm: float
    """Global L2 norm of the gradients before clipping."""
    clipped_norm: float
    """The same after it."""
    tokens: int
    """Tokens of the global batch without padding."""
    supervised_tokens: int
    """Tokens whose prediction counts in the loss."""
    loss_scale: float
    """Factor on the loss in fp16, 1.0 otherwise."""
    skipped: bool
    """True if the gradients were not finite and the weights stayed as they were: in fp16 an overflow, which ends."""
    static_scale: bool = False
    """True in fp16 with a loss scale that no overflow lowers."""
    noticed: bool = False
    """True if any rank had a notice."""
    sent_bytes: float | None = None
    """Of gradients or weights that each rank sent to the others, where the recipe says how; as in a ring of them."""
    phase_seconds: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """Where this rank's time went, as far as the engine tells its parts apart:

    `forward`, `backward` (with what DeepSpeed sends in it) or `passes` (both, in turn over stages), `pipeline` (passes
    and update in one call), `optimizer` (norm, clipping, update, weights gathered), `exchange` (the recipe's own
    `communication`) and `waiting` (for the counts and losses of the other ranks).
    """
    busy_seconds: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """What of it this rank computed and waited for nobody, of `BUSY`, as far as the engine tells that apart."""
    heard: tuple[tuple[float, ...], ...] = field(default=(), compare=False, repr=False)
    """What each rank has told with this step, by rank; empty where nobody did."""


@dataclass(frozen=True)
class Prepared:
    """What an engine has made of the model and the optimizer, read off its own tensors and buffers."""

    trained: Mapping[str, int]
    """Parameters of each tensor that this rank trains, or a part of it: those of the whole tensor."""
    weights: str
    """Types of the numbers of the forward pass, in words: `fp32`, `bf16 and fp32`."""
    gradients: str
    """As they are added up over micro-batches."""
    sent: str
    """As gradients travel between ranks."""
    masters: str
    """Of the weights that the optimizer updates."""
    moments: str
    """What it keeps beside them, as in `moments fp32`."""
    max_norm: float
    """Global norm that the library clips gradients at; 0 where it clips nothing."""

    @property
    def rounded(self) -> bool:
        """Whether any weight of the forward pass is 16 bits wide."""
        return "16" in self.weights

    @property
    def note(self) -> str:
        """How wide the numbers are, in one sentence."""
        return (
            f"numbers: weights {self.weights}; gradients {self.gradients}, sent in {self.sent}; optimizer's weights "
            f"{self.masters}, {self.moments}"
        )


WEIGHT = "weight"
"""Name of the state that every optimizer has: the trained number itself, in fp32."""
WHOLE = "whole/"
"""How the names of states begin that belong to a tensor, not to each of its numbers: factors, preconditioners."""
OUTER_MOMENTUM = "outer_momentum"
"""Name of the state that a recipe may ask for in the middle of a run: zeros where a checkpoint has none."""

CLIPPING = "clipping/"
"""How the names of counters begin that a threshold of clipping has learned."""


@dataclass(frozen=True)
class Piece:
    """A run of consecutive numbers of one trained tensor, whose states this rank keeps.

    Tensor parallelism cuts a tensor along one dimension, ZeRO divides what is left, flattened, over the replicas.
    """

    name: str
    """Of the tensor, as in `full_state`."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dim: int
    """The dimension that tensor parallelism cuts; 0 where it does not."""
    low: int
    """First index of this rank's cut along `dim`."""
    high: int
    """Index after the last one."""
    start: int
    """First number in the flattened cut."""
    stop: int
    """Number after the last one."""
    owned: bool
    """Whether this rank speaks for the piece: where several hold the same, one of them does."""

    @property
    def cut_shape(self) -> tuple[int, ...]:
        """Of this rank's cut."""
        return (*self.shape[: self.dim], self.high - self.low, *self.shape[self.dim + 1 :])


States = Mapping[str, torch.Tensor]
"""By name: flat fp32 tensors of a piece, [stop - start] each; those of `WHOLE`, from one rank, have any shape."""


class Engine(Protocol):
    """A prepared model on this rank. Every method is a collective: all ranks call it, in the same order."""

    rank: int
    """Global rank, 0 .. world_size - 1."""
    world_size: int
    """Number of ranks."""
    data_rank: int
    """Which share of the global batch this rank trains on, 0 .. dp - 1."""
    stage: int
    """Which pipeline stage this rank computes; 0 without a pipeline. Ranks of one stage have equal work."""
    device: torch.device
    """Where batches go; `train_step` moves them."""
    notes: tuple[str, ...]
    """What was decided at start and is worth telling, one sentence each."""
    prepared: Prepared
    """What is trained and how wide its numbers are, as found after the start."""

    def train_step(
        self, micro_batches: Sequence[Batch], *, learning_rate: float, notice: bool = False, told: Sequence[float] = ()
    ) -> StepResult:
        """One optimizer step over this rank's micro-batches.

        Args:
            micro_batches: of this rank: `grad_accum` of them, or as many as `monitoring.balance` gives its replica.
            learning_rate: of this step.
            notice: this rank has something to tell the others (a signal, a checkpoint that failed); it travels with the
                sums that a step needs anyway, so that all ranks stop to listen after the same step.
            told: numbers for all ranks, as many on each of them, that travel in the same way.
        """

    def eval_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy over all supervised tokens of all ranks' batches; no gradients."""

    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers (new tokens only) to this rank's left-padded prompts, in order."""

    def gather(self, value: Any) -> list[Any]:
        """The picklable `value` of every rank, in rank order, on every rank."""

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and whole weights in CPU memory, one after the other; only rank 0 gets any."""

    def weights_digest(self) -> tuple[str, str] | None:
        """What this rank holds of the trained weights, and a digest of their bits: equal on ranks that hold the same.

        None where no two ranks hold the same (ZeRO-3).
        """

    def prepare_to_save(self) -> None:
        """Before `states` are saved: leave nothing that they do not hold, as a run that goes on from them has none."""

    def states(self) -> Iterator[tuple[Piece, States]]:
        """Every piece that this rank keeps, and its numbers, on whatever device; valid until the next is asked for.

        At most one of each tensor. Whoever only reads them changes nothing.
        """

    def pieces(self) -> Iterator[Piece]:
        """Those of `states`, without their numbers, which an optimizer may have none of before its first step."""

    def counters(self) -> dict[str, float]:
        """What the engine itself counts, equal on all ranks: the dynamic loss scale of fp16 and its history."""

    def load_states(
        self, read: Callable[[Piece], States], *, num_updates: int, counters: Mapping[str, float]
    ) -> tuple[str, ...]:
        """Continue where another run stopped, whatever its layout was; what is worth telling, one sentence each.

        Args:
            read: the states of a piece, in CPU memory, with those of its whole tensor.
            num_updates: steps that the optimizer has taken.
            counters: as `counters` gave them; what this engine does not count is ignored.
        """

    def close(self) -> None:
        """Leave the process group."""
