"""The loss before any update: the engine's on real rows, beside plain transformers' on the same ones, and a guess's."""

import math

import torch

from toolkit.data.encode import IGNORED
from toolkit.errors import ToolkitError
from toolkit.models.plain import plain_loss
from toolkit.preflight.documents import documents
from toolkit.preflight.outcome import Outcome
from toolkit.preflight.setting import Setting

_OPERATIONS = 4e11
"""Of the plain model, which runs on one processor: a few seconds."""
_FEWEST_TOKENS, _MOST_TOKENS = 16, 2048
_TOLERANCE = {"4 bits": 0.15, "16 bits": 2e-2, "fp32": 1e-3}
"""Relative. On the CPU fp32 differs by 1e-6 and bf16 by 4e-3 over all layouts of the tests; a GPU may take TF32. NF4
costs a few per cent of perplexity (2305.14314, table 2); less is known of short texts."""
_GUESSING = 0.95
"""Part of a guess's loss above which a model knows next to nothing of the text."""

_NAME = "first loss"
_REMEDY = "look at the checkpoint, or plan again with another engine or layout; --preflight full says more"

Probe = tuple[dict[str, torch.Tensor], list[list[int]]]
"""A batch that asks for some tokens only, and these with all before them, as plain documents."""


def check_first_loss(setting: Setting) -> Outcome:
    """Compare; a collective."""
    engine, plan = setting.engine, setting.plan
    loss = engine.eval_loss(setting.first_step[:1])
    guess = math.log(plan.model.vocab_size)
    said = f"{loss:.4f} on the first micro-batch, a guess's is ln({plan.model.vocab_size}) = {guess:.2f}"
    if not math.isfinite(loss):
        return Outcome(_NAME, "failed", f"{loss} before any update: weights or data hold NaN or Inf", _REMEDY)
    if setting.goes_on:
        return Outcome(_NAME, "passed", f"{said}; the weights of a checkpoint come next")
    # All replicas compute the same rows, so that none is wrong unseen.
    batch, rows = engine.gather(_probe(setting) if engine.rank == 0 else None)[0]
    here = engine.eval_loss([batch])
    plain: float | str = engine.gather(_plain(setting, rows) if engine.rank == 0 else None)[0]
    if isinstance(plain, str):
        return _without_plain(loss, guess, said=f"{said}; not compared with plain transformers: {plain}")
    count = sum(len(row) - 1 for row in rows)
    if not abs(here - plain) <= _TOLERANCE[_width(setting)] * plain:
        fault = (
            f"{here:.4f} on {count} tokens where plain transformers has {plain:.4f}: the engine's weights or layers "
            "are not the checkpoint's"
        )
        return Outcome(_NAME, "failed", fault, _REMEDY)
    said += f"; {here:.4f} on {count} tokens, plain transformers {plain:.4f}"
    if loss > _GUESSING * guess:
        said += "; the checkpoint itself knows nothing of these samples: untrained, or with another model's tokenizer?"
        return Outcome(_NAME, "told", said)
    return Outcome(_NAME, "passed", said)


def _width(setting: Setting) -> str:
    """Of the numbers that the engine computes with, which people change in ds_config.json too."""
    if setting.plan.workload.method == "qlora":
        return "4 bits"
    return "16 bits" if setting.engine.prepared.rounded else "fp32"


def _without_plain(loss: float, guess: float, *, said: str) -> Outcome:
    if loss > _GUESSING * guess:
        fault = f"{said}; a model with its weights does better: they are random or incomplete"
        return Outcome(_NAME, "failed", fault, _REMEDY)
    return Outcome(_NAME, "passed", said)


def _probe(setting: Setting) -> Probe:
    """The beginnings of the first documents, as many tokens as the plain model has time for."""
    batch = setting.first_step[0]
    tokens = int(_OPERATIONS / 2 / setting.plan.model.num_params)
    left = min(max(tokens, _FEWEST_TOKENS), _MOST_TOKENS)
    labels = torch.full_like(batch["labels"], IGNORED)
    rows: list[list[int]] = []
    for row, start, stop in documents(batch):
        end = min(stop, start + left)
        if end - start < 2:
            break
        ids = batch["input_ids"][row]
        labels[row, start + 1 : end] = ids[start + 1 : end]
        rows.append(ids[start:end].tolist())
        left -= end - start
    # Noise is for training.
    return {**{name: each for name, each in batch.items() if name != "noise_seeds"}, "labels": labels}, rows


def _plain(setting: Setting, rows: list[list[int]]) -> float | str:
    """Mean loss of each token after the first; why there is none, where there is none."""
    plan, tokenizer = setting.plan, setting.data.encoder.template.tokenizer
    added = plan.workload.new_tokens
    known = tokenizer.convert_tokens_to_ids(added[0]) if added else None
    try:
        return plain_loss(setting.recipe.model, plan.model, rows, known=known)
    except ToolkitError as error:
        return str(error)
