"""What the ranks of test_communication run: steps whose bytes are counted, gradients that are averaged; and by hand."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from ranks.reference import mean_loss
from ranks.runs import batches_of, open_engine
from ranks.settings import CLIP, GLOBAL_BATCH, LEARNING_RATES, SEED, WEIGHT_DECAY
from ranks.tiny import PAD, training_rows
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines.base import StepResult
from toolkit.engines.zero.exchange import Exchange
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


def averaged(config: CommunicationConfig, shapes: Sequence[tuple[int, ...]], steps: int) -> list[torch.Tensor]:
    """What the ranks make of the gradients that they get, flat, step by step."""
    exchange, made = Exchange(config), []
    for gradients in gradients_like(shapes, rank=dist.get_rank(), steps=steps):
        exchange.reduce(gradients)
        made.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return made


def local_by_hand(
    folder: Path, *, local_steps: int, outer_rate: float, outer_momentum: float
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Two replicas in one process, each on its own rows with its own AdamW, and the mean of both after each round.

    Returns:
        The losses over both replicas' rows, and the weights at the end.
    """
    replicas = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train() for _ in range(2)]
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.0, weight_decay=WEIGHT_DECAY) for one in replicas]
    rows = [
        GlobalBatches(training_rows(), Share(2, rank, GLOBAL_BATCH // 2, 1), seed=SEED, pad_token_id=PAD)
        for rank in range(2)
    ]
    anchor = [weight.detach().clone() for weight in replicas[0].parameters()]
    momentum = [torch.zeros_like(weight) for weight in anchor]
    losses = []
    for index, rate in enumerate(LEARNING_RATES):
        total, tokens = 0.0, 0
        for model, optimizer, own in zip(replicas, optimizers, rows, strict=True):
            (batch,) = own.step(index)
            loss = mean_loss(model, batch)
            loss.backward()
            count = int((batch["labels"][:, 1:] != -100).sum())
            total, tokens = total + loss.item() * count, tokens + count
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(total / tokens)
        if (index + 1) % local_steps == 0 or index == len(LEARNING_RATES) - 1:
            _outer_step(replicas, anchor, momentum, rate=outer_rate, beta=outer_momentum)
    return losses, dict(zip(dict(replicas[0].named_parameters()), anchor, strict=True))


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
