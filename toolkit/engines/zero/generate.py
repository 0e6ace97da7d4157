"""Greedy answers of a model that DeepSpeed holds, in every stage and with divided layers."""

from collections.abc import Sequence
from typing import Any

import torch

from toolkit.engines.base import Batch
from toolkit.engines.ds.tensor import whole_logits
from toolkit.models.compiled import uncompiled
from toolkit.models.ulysses import whole_sequences


@torch.no_grad()
def answers_of(
    engine: Any, base: Any, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
) -> list[list[int]]:
    """New tokens for left-padded prompts; every rank needs the same number of batches.

    Args:
        engine: DeepSpeed's, in evaluation mode.
        base: the `transformers` model inside.
        batches: prompts of this rank.
        max_new_tokens: longest answer.
        stop_token_ids: tokens that end one.
    """
    answers: list[list[int]] = []
    for batch in batches:
        # Ranks of one replica answer the same prompts, each in full.
        with whole_logits(base.lm_head), whole_sequences(base), uncompiled():
            output = engine.module.generate(
                input_ids=batch["input_ids"].to(engine.device),
                attention_mask=batch["attention_mask"].to(engine.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=list(stop_token_ids),
                do_sample=False,
                temperature=None,
                top_p=None,
                use_cache=True,
                # Under ZeRO-3 every forward pass gathers weights: a rank that is done must go on until all are.
                synced_gpus=engine.zero_optimization_stage() == 3,
            )
        answers += output[:, batch["input_ids"].shape[1] :].tolist()
    return answers
