"""What the model knows: loss and exact match on samples that training never sees."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from toolkit.engines.base import Batch, Engine
from toolkit.run_folder import RunFolder


class Questions(Protocol):
    """This rank's share of the held-out prompts; every rank has the same number of batches."""

    @property
    def batches(self) -> Sequence[Batch]:
        """Left-padded prompts; rows beyond `prompts` only fill up the last batches."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts as text, in the order of the rows."""

    @property
    def answers(self) -> Sequence[str]:
        """What should be answered."""


@dataclass(frozen=True)
class Answer:
    """One held-out prompt and what the model made of it."""

    prompt: str
    expected: str
    given: str


@dataclass(frozen=True)
class Evaluation:
    """Held-out measurements at one moment; None for what was not asked for."""

    loss: float | None
    """Mean cross-entropy over the supervised tokens, nats."""
    exact_match: float | None
    """Part of the prompts whose greedy answer equals the expected text, white space at the ends aside."""
    example: Answer | None
    """The first prompt's answer."""


@dataclass(frozen=True)
class HeldOut:
    """This rank's share of what is measured; as many batches on every rank."""

    loss_batches: Sequence[Batch]
    """Samples whose loss counts."""
    questions: Questions | None
    """Prompts to answer, or None to generate nothing."""
    decode: Callable[[list[int]], str]
    """Token ids of an answer to text, special tokens left out."""
    max_new_tokens: int
    """Longest answer."""
    stop_token_ids: Sequence[int]
    """Tokens that end an answer: the template's end of turn is not always the tokenizer's eos."""


def evaluate(engine: Engine, held_out: HeldOut | None) -> Evaluation:
    """Measure on all ranks; the result is the same on each of them, empty without held-out samples."""
    if held_out is None:
        return Evaluation(loss=None, exact_match=None, example=None)
    loss = engine.eval_loss(held_out.loss_batches) if held_out.loss_batches else None
    questions = held_out.questions
    if questions is None:
        return Evaluation(loss=loss, exact_match=None, example=None)
    generated = engine.generate(
        questions.batches, max_new_tokens=held_out.max_new_tokens, stop_token_ids=held_out.stop_token_ids
    )
    answers = [
        Answer(prompt, expected.strip(), held_out.decode(tokens).strip())
        # The last batches are filled up with rows that nobody asked for.
        for prompt, expected, tokens in zip(questions.prompts, questions.answers, generated, strict=False)
    ]
    of_all_ranks: list[Answer] = [answer for share in engine.gather(answers) for answer in share]
    right = sum(answer.given == answer.expected for answer in of_all_ranks)
    return Evaluation(loss=loss, exact_match=right / len(of_all_ranks), example=of_all_ranks[0])


def evaluate_before(engine: Engine, held_out: HeldOut | None, folder: RunFolder) -> Evaluation:
    """Measure a run's model before its first step, or read what was measured when the run began."""
    kept: Any = engine.gather(folder.before.read_text(encoding="utf-8") if folder.before.exists() else None)[0]
    if kept is not None:
        content = json.loads(kept)
        example = content.pop("example")
        return Evaluation(**content, example=None if example is None else Answer(**example))
    before = evaluate(engine, held_out)
    if engine.rank == 0:
        partial = folder.before.with_suffix(".json.partial")
        partial.write_text(json.dumps(asdict(before)), encoding="utf-8")
        partial.replace(folder.before)
    return before
