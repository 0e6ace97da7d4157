"""What ranks of Megatron's engine do in tests, beside what those of every engine do."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ranks.runs import open_engine
from toolkit.engines.base import Batch
from toolkit.engines.mcore.cpu import cpu_as_cuda


def logits_and_weights(folder: Path, rows: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [rows, seq, vocabulary] on every rank, and on rank 0 the whole weights."""
    engine: Any = open_engine(folder)
    tokens = engine._cutter.of_batches([rows])[0]
    with cpu_as_cuda():
        part = engine._passes.logits(tokens)
    place, parts = engine._place, [None] * dist.get_world_size()
    dist.all_gather_object(parts, None if part is None else (place.tp, tokens.own, part))
    columns: dict[int, Any] = {}
    for tp, own, of in (each for each in parts if each is not None):
        whole = columns.setdefault(tp, torch.zeros(len(of), tokens.own.numel() * place.num_cp, of.shape[-1]))
        whole[:, own] = of
    logits = torch.cat([columns[tp] for tp in sorted(columns)], dim=-1)
    weights = dict(engine.full_state())
    vocab = weights["model.embed_tokens.weight"].shape[0] if weights else logits.shape[-1]
    engine.close()
    return logits[:, : rows["input_ids"].shape[1], :vocab], weights
