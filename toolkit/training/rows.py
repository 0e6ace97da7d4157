"""What a rank trains on and is tested with: its rows of the recipe's samples."""

from functools import partial
from typing import Any

from toolkit.data.batches import spaced
from toolkit.data.digests import fingerprint
from toolkit.data.loader import GlobalBatches, Share, answered, eval_batches, prompt_batches
from toolkit.data.prepare import PreparedData, prepare
from toolkit.data.prompts import with_prompts
from toolkit.engines.base import Engine
from toolkit.planner.plan import Plan
from toolkit.specs.recipe import Recipe
from toolkit.training.evaluation import HeldOut, check_measurable


def prepared_data(recipe: Recipe, tokenizer: Any) -> PreparedData:
    """Samples to train on, to hold out and to ask, as the recipe has them; the tokenizer gets their template."""
    config, seq_len = recipe.require_data(), recipe.workload.seq_len
    data = prepare(config, tokenizer, seq_len=seq_len, seed=recipe.seed)
    tokenizer.chat_template = data.encoder.template.text
    check_measurable(recipe, held_out=data.held_out is not None)
    return with_prompts(data, recipe.evaluation.prompts, config, seq_len=seq_len)


def share_of(plan: Plan, engine: Engine) -> Share:
    """Which rows of every global batch this rank trains on."""
    strategy = plan.strategy
    return Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)


def training_batches(recipe: Recipe, data: PreparedData, *, share: Share) -> GlobalBatches:
    """This rank's batches of every step."""
    tokenizer = data.encoder.template.tokenizer
    batches = GlobalBatches(
        data.train,
        share,
        seed=recipe.seed,
        pad_token_id=tokenizer.pad_token_id,
        packs=data.packs,
        grouped=recipe.require_data().group_by_length,
    )
    return batches if recipe.neftune_alpha is None else batches.with_noise_seeds()


def held_out_test(recipe: Recipe, data: PreparedData, share: Share) -> HeldOut | None:
    """This rank's share of the held-out samples and of further prompts, as the recipe's evaluation asks for them."""
    if data.held_out is None and data.prompts is None:
        return None
    asked, encoder, rows = recipe.evaluation, data.encoder, data.held_out
    measured = None if rows is None else spaced(rows, asked.loss_samples)
    num_questions = max(asked.exact_match_samples, asked.generate_samples)
    questioned = None if rows is None else spaced(answered(rows), num_questions)
    tokenizer = encoder.template.tokenizer
    pad = tokenizer.pad_token_id
    questions = partial(prompt_batches, share=share, encoder=encoder, pad_token_id=pad)
    return HeldOut(
        loss_batches=[] if measured is None else eval_batches(measured, share, pad_token_id=pad),
        questions=None if questioned is None else questions(questioned),
        decode=lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        max_new_tokens=asked.max_new_tokens,
        stop_token_ids=encoder.stop_token_ids(),
        graded=asked.exact_match_samples,
        shown=asked.generate_samples,
        prompts=None if data.prompts is None else questions(data.prompts),
        fingerprint="" if measured is None else fingerprint(measured),
    )
