"""Greedy answers by whole forward passes: for samples during training, not for serving.

Megatron's caches of keys and values belong to its own inference engine, with its own batching; without them an answer
costs the square of its length, in any layout alike.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from toolkit.engines.base import Batch
from toolkit.engines.mcore.batches import Cutter
from toolkit.engines.mcore.passes import Passes
from toolkit.engines.mcore.place import Place


class Generator:
    """Answers the prompts of this rank's replica; its ranks call it together.

    Args:
        passes: through the model.
        cutter: of rows.
        place: of this rank.
        device: where the process groups work.
        vocab_size: of the model; columns that fill it up are never chosen.
    """

    def __init__(self, passes: Passes, cutter: Cutter, place: Place, *, device: torch.device, vocab_size: int) -> None:
        self._passes, self._cutter, self._place = passes, cutter, place
        self._device, self._vocab_size = device, vocab_size

    def answer(self, batch: Batch, *, max_new_tokens: int, stops: Sequence[int]) -> list[list[int]]:
        """New tokens of each row up to and with the first stop token.

        Args:
            batch: left-padded prompts, `input_ids` and `attention_mask` [rows, seq].
            max_new_tokens: longest answer.
            stops: tokens that end an answer.
        """
        ids, mask = batch["input_ids"], batch["attention_mask"]
        stop_ids = torch.tensor(list(stops))
        done = torch.zeros(len(ids), dtype=torch.bool)
        answers: list[list[int]] = [[] for _ in ids]
        for _ in range(max_new_tokens):
            chosen = self._next_tokens(ids, mask).to("cpu")
            for row in (~done).nonzero().flatten().tolist():
                answers[row].append(int(chosen[row]))
            done |= torch.isin(chosen, stop_ids)
            if bool(done.all()):
                break
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return answers

    def _next_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The likeliest token after each row, on every rank of the replica: int64 [rows]."""
        place, tokens = self._place, self._cutter.of_prompts(ids, mask)
        logits = self._passes.logits(tokens)
        chosen = torch.full((len(ids),), -1, dtype=torch.int64, device=self._device)
        last = (tokens.own == ids.shape[1] - 1).nonzero().flatten()
        if logits is not None and len(last):
            own = logits[:, int(last)].contiguous()
            parts = [torch.empty_like(own) for _ in range(place.num_tp)]
            dist.all_gather(parts, own, group=place.tp_group)
            chosen = torch.cat(parts, dim=-1)[:, : self._vocab_size].argmax(dim=-1)
        dist.all_reduce(chosen, op=dist.ReduceOp.MAX, group=place.cp_group)
        sender = dist.get_global_rank(place.pp_group, place.num_pp - 1)
        dist.broadcast(chosen, src=sender, group=place.pp_group)
        return chosen
