"""What the ranks of test_communication run: steps whose bytes are counted, gradients that are averaged; and by hand."""

import copy
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from ranks.reference import mean_loss
from ranks.runs import batches_of, open_engine
from ranks.settings import CLIP, GLOBAL_BATCH, LEARNING_RATES, SEED, WEIGHT_DECAY
from ranks.tiny import PAD, training_rows
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines.base import WEIGHT, StepResult
from toolkit.engines.zero.exchange import Exchange
from toolkit.engines.zero.low_rank import LowRank
from toolkit.specs.communication import CommunicationConfig


def counted_steps(folder: Path, count: int) -> list[tuple[StepResult, int]]:
    """Steps, and the bytes that this rank wrote in each: gloo writes its messages into sockets."""
    engine = open_engine(folder)
    batches, found = batches_of(folder, engine), []
    for index in range(count):
        micro_batches, before = batches.step(index), _written()
        result = engine.train_step(micro_batches, learning_rate=LEARNING_RATES[index])
        found.append((result, _written() - before))
    engine.close()
    return found


def _written() -> int:
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("wchar"))


@dataclass(frozen=True)
class Averaged:
    """What a rank made of its gradients."""

    made: list[torch.Tensor]
    """Flat, of each step."""
    sent_bytes: list[float]
    """In each step, as it says itself."""


def averaged(
    config: CommunicationConfig, shapes: Sequence[tuple[int, ...]], steps: range, size: float = 1.0
) -> Averaged:
    """What the ranks make of `gradients_like` in those steps, each number times `size`."""
    exchange, made, sent = Exchange(config), [], []
    for gradients in gradients_like(shapes, rank=dist.get_rank(), steps=steps.stop)[steps.start :]:
        for gradient in gradients:
            gradient.mul_(size)
        exchange.reduce(gradients)
        exchange.after_step(skipped=False)
        made.append(torch.cat([gradient.flatten() for gradient in gradients]))
        sent.append(exchange.take_sent_bytes())
    return Averaged(made, sent)


def waiting_after(shape: tuple[int, int], steps: Collection[int]) -> list[float]:
    """How much waits on this rank after so many steps, in norms of its gradient: a little in common, and noise."""
    generator, same = torch.Generator().manual_seed(dist.get_rank()), torch.Generator().manual_seed(99)
    in_common, found = 0.3 * torch.randn(shape, generator=same), []
    low_rank = LowRank(4, [in_common])
    for number in range(1, max(steps) + 1):
        gradient = in_common + torch.randn(shape, generator=generator)
        own = float(gradient.norm())
        low_rank.average([gradient])
        if number in steps:
            found.append(float(low_rank.waiting()) / own)
    return found


@dataclass(frozen=True)
class Interrupted:
    """A run whose rounds an evaluation ends, as one rank saw it."""

    steps: list[StepResult]
    held_out: list[float]
    """Losses of the evaluations, on the rows of the first step."""
    weights: dict[str, torch.Tensor]
    """On rank 0."""


def train_with_evaluations(folder: Path, after: Collection[int]) -> Interrupted:
    """All steps of a run, with an evaluation after those numbers of them."""
    engine = open_engine(folder)
    batches, steps, held_out = batches_of(folder, engine), [], []
    for index, rate in enumerate(LEARNING_RATES):
        steps.append(engine.train_step(batches.step(index), learning_rate=rate))
        if index + 1 in after:
            held_out.append(engine.eval_loss(batches.step(0)))
    weights = dict(engine.full_state())
    engine.close()
    return Interrupted(steps, held_out, weights)


def weights_at_the_end(folder: Path) -> tuple[list[StepResult], list[Any]]:
    """All steps of a run, and a digest of each rank's weights: those of the model and the fp32 ones beneath."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    steps = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    digest = engine.weights_digest()
    beneath = hashlib.sha256()
    for _, states in engine.states():
        beneath.update(states[WEIGHT].contiguous().numpy().tobytes())
    told = engine.gather((digest, beneath.hexdigest()))
    engine.close()
    return steps, told


class ByHand(NamedTuple):
    """What two replicas in one process come to."""

    losses: list[float]
    """Over both replicas' rows."""
    clipped_norms: list[float]
    """Roots of the replicas' mean squares, after each has clipped its own."""
    held_out: list[float]
    """On the rows of the first step, where a round was ended early."""
    weights: dict[str, torch.Tensor]
    """At the end."""


def local_by_hand(
    folder: Path, config: CommunicationConfig, *, interrupted_after: Collection[int] = (), clip: float = CLIP
) -> ByHand:
    """Two replicas in one process, each on its own rows with its own AdamW, and the mean of both after each round.

    Args:
        folder: of the model.
        config: with its local steps and its outer optimizer.
        interrupted_after: numbers of steps that end a round early, for an evaluation.
        clip: largest norm of a replica's gradients.
    """
    replicas = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train() for _ in range(2)]
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.0, weight_decay=WEIGHT_DECAY) for one in replicas]
    rows = [
        GlobalBatches(training_rows(), Share(2, rank, GLOBAL_BATCH // 2, 1), seed=SEED, pad_token_id=PAD)
        for rank in range(2)
    ]
    anchor = [weight.detach().clone() for weight in replicas[0].parameters()]
    momentum = [torch.zeros_like(weight) for weight in anchor]
    found, since = ByHand([], [], [], dict(zip(dict(replicas[0].named_parameters()), anchor, strict=True))), 0
    for index, rate in enumerate(LEARNING_RATES):
        total, tokens, squares = 0.0, 0, 0.0
        for model, optimizer, own in zip(replicas, optimizers, rows, strict=True):
            (batch,) = own.step(index)
            loss = mean_loss(model, batch)
            loss.backward()
            count = int((batch["labels"][:, 1:] != -100).sum())
            total, tokens = total + loss.item() * count, tokens + count
            squares += min(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)), clip) ** 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        found.losses.append(total / tokens)
        found.clipped_norms.append((squares / 2) ** 0.5)
        since += 1
        if since == config.local_steps or index + 1 in (*interrupted_after, len(LEARNING_RATES)):
            rate, beta, since = config.outer_learning_rate, config.outer_momentum, 0
            _outer_step(replicas, anchor, momentum, rate=rate, beta=beta)
        if index + 1 in interrupted_after:
            found.held_out.append(_loss_of_both(replicas[0], [own.step(0)[0] for own in rows]))
    return found


@torch.no_grad()
def _loss_of_both(model: Any, batches: Sequence[Any]) -> float:
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    sums = [mean_loss(model, batch).item() * count for batch, count in zip(batches, counts, strict=True)]
    return sum(sums) / sum(counts)


@torch.no_grad()
def _outer_step(
    replicas: list[Any], anchor: list[torch.Tensor], momentum: list[torch.Tensor], *, rate: float, beta: float
) -> None:
    """Nesterov's, on what the replicas have moved by (Sutskever et al. 2013, as torch has it)."""
    both = zip(*(list(one.parameters()) for one in replicas), strict=True)
    for number, weights in enumerate(both):
        moved = anchor[number] - sum(weights) / len(weights)
        momentum[number].mul_(beta).add_(moved)
        anchor[number] -= rate * (moved + beta * momentum[number] if beta else moved)
        for weight in weights:
            weight.copy_(anchor[number])


def gradients_like(shapes: Sequence[tuple[int, ...]], *, rank: int, steps: int) -> list[list[torch.Tensor]]:
    """Of a rank that sees the same thing over and over, and noise."""
    generator = torch.Generator().manual_seed(rank)
    same = [torch.randn(shape, generator=torch.Generator().manual_seed(99)) for shape in shapes]
    return [[copy.deepcopy(s) + torch.randn(s.shape, generator=generator) for s in same] for _ in range(steps)]
