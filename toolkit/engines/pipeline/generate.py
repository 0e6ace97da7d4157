"""Greedy answers from a model that is divided into stages: one token at a time through all of them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule

from toolkit.engines.base import Batch
from toolkit.engines.ds.tensor import whole_logits
from toolkit.models.stages import Body, Embedding, Head, Norm


class StageGenerator:
    """Answers the prompts of this rank's replica; its ranks call it together.

    Args:
        module: this rank's stage.
        hidden_size: of the model.
        device: where tokens and hidden states live.
        dtype: of the hidden states.
    """

    def __init__(self, module: PipelineModule, hidden_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self._layers = list(module.forward_funcs)
        self._body = next(layer for layer in self._layers if isinstance(layer, Body))
        self._hidden_size, self._device, self._dtype = hidden_size, device, dtype
        grid = module.mpu()
        self._group, self._ranks = grid.get_pipe_parallel_group(), list(grid.pp_group)
        self._stage, self._last = module.stage_id, module.num_stages - 1

    def answer(self, batch: Batch, *, max_new_tokens: int, stops: Sequence[int]) -> list[list[int]]:
        """New tokens of each row up to and with the first stop token.

        Args:
            batch: left-padded prompts, `input_ids` and `attention_mask` [rows, seq].
            max_new_tokens: longest answer.
            stops: tokens that end an answer.
        """
        ids, mask = (batch[name].to(self._device) for name in ("input_ids", "attention_mask"))
        stop_ids = torch.tensor(list(stops), device=self._device)
        cache = self._body.new_cache()
        done = torch.zeros(ids.shape[0], dtype=torch.bool, device=self._device)
        answers: list[list[int]] = [[] for _ in range(ids.shape[0])]
        for _ in range(max_new_tokens):
            chosen = self._next_tokens(ids, mask, cache)
            for row in (~done).nonzero().flatten().tolist():
                answers[row].append(int(chosen[row]))
            done |= torch.isin(chosen, stop_ids)
            if bool(done.all()):
                break
            ids, mask = chosen[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return answers

    def _next_tokens(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """The likeliest token after each row, on every stage: int64 [rows].

        Args:
            ids: tokens that are not in the cache yet, [rows, new].
            mask: of all tokens, [rows, past + new].
            cache: of this stage's layers.
        """
        new, total = ids.shape[1], mask.shape[1]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, total - new :]
        order = torch.arange(total, device=self._device)
        behind = order[total - new :, None] - order[None, :]  # how far a seen token lies behind one that sees
        window = self._body.window or total
        seen = (behind >= 0) & (behind < window) & mask[:, None, None, :].bool()
        # A row of padding sees itself: a softmax over nothing is NaN.
        seen = seen | (behind == 0)
        hidden: Any = ids
        if self._stage > 0:
            hidden = torch.empty((*ids.shape, self._hidden_size), dtype=self._dtype, device=self._device)
            dist.recv(hidden, src=self._ranks[self._stage - 1])
        for layer in self._layers:
            match layer:
                case Embedding():
                    hidden = layer.embed_tokens(hidden)
                case Body():
                    hidden = layer.run(hidden, positions, seen=seen, cache=cache)
                case Norm():
                    hidden = layer.norm(hidden[:, -1])
                case Head():
                    with whole_logits(layer.lm_head):
                        hidden = layer.logits(hidden).argmax(dim=-1)
        if self._stage < self._last:
            dist.send(hidden.contiguous(), dst=self._ranks[self._stage + 1])
            hidden = torch.empty(ids.shape[0], dtype=torch.int64, device=self._device)
        dist.broadcast(hidden, src=self._ranks[self._last], group=self._group)
        chosen: torch.Tensor = hidden
        return chosen
