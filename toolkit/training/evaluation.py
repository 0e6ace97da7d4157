"""What the model knows: loss and exact match on samples that training never sees."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolkit.engines.base import Batch, Engine
from toolkit.errors import SpecError
from toolkit.specs.recipe import Recipe

_LARGEST_EXPONENT = 700.0


class Questions(Protocol):
    """This rank's share of some prompts; every rank has the same number of batches."""

    @property
    def batches(self) -> Sequence[Batch]:
        """Left-padded prompts; rows beyond `prompts` only fill up the last batches."""

    @property
    def numbers(self) -> Sequence[int]:
        """Place of each prompt among those of all ranks."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts as text, in the order of the rows."""

    @property
    def answers(self) -> Sequence[str]:
        """What should be answered."""


@dataclass(frozen=True)
class Answer:
    """One prompt and what the model made of it."""

    prompt: str
    expected: str
    given: str

    @property
    def right(self) -> bool:
        """Whether the greedy answer is the expected text, white space at the ends aside."""
        return self.given == self.expected


@dataclass(frozen=True)
class Evaluation:
    """Measurements at one moment; None for what was not asked for."""

    loss: float | None
    """Mean cross-entropy over the supervised tokens of the held-out samples, nats."""
    exact_match: float | None
    """Part of the held-out prompts whose answer is right."""
    example: Answer | None
    """The first held-out prompt's answer."""
    prompts_match: float | None = None
    """Part of the recipe's own prompts whose answer is right."""
    answers: tuple[Answer, ...] = ()
    """As many held-out prompts' answers as the recipe wants shown."""
    note: str | None = None
    """What is left out, and why."""

    @property
    def numbers(self) -> dict[str, float]:
        """What was measured, by the names of evaluations.jsonl."""
        found = {"held_out_loss": self.loss}
        if self.loss is not None:
            found["perplexity"] = math.exp(self.loss) if self.loss < _LARGEST_EXPONENT else math.inf
        found |= {"exact_match": self.exact_match, "prompts_match": self.prompts_match}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class HeldOut:
    """This rank's share of what is measured; as many batches on every rank."""

    loss_batches: Sequence[Batch]
    """Samples whose loss counts."""
    questions: Questions | None
    """Held-out prompts to answer, or None to generate nothing."""
    decode: Callable[[list[int]], str]
    """Token ids of an answer, without the one that ended it, to text, special tokens left out."""
    max_new_tokens: int
    """Longest answer."""
    stop_token_ids: Sequence[int]
    """Tokens that end an answer: the template's end of turn is not always the tokenizer's eos."""
    graded: int | None = None
    """How many of the questions count for the exact match; all without it."""
    shown: int = 0
    """How many of the questions are kept with their answers."""
    prompts: Questions | None = None
    """The recipe's own prompts."""
    fingerprint: str = ""
    """Of the samples whose loss counts."""


def check_measurable(recipe: Recipe, *, held_out: bool) -> None:
    """Refuse a recipe that watches what is not there.

    Args:
        recipe: of the run.
        held_out: whether there are held-out samples.

    Raises:
        SpecError: naming what needs them.
    """
    asked = recipe.evaluation
    watching = {
        "schedule.kind plateau": recipe.schedule.kind == "plateau",
        "evaluation.patience": asked.patience is not None,
        "evaluation.export_best": asked.export_best,
        "evaluation.every_steps": asked.every_steps is not None and asked.prompts is None,
        "evaluation.generate_samples": asked.generate_samples > 0,
    }
    wanting = [name for name, wants in watching.items() if wants]
    if wanting and not held_out:
        raise SpecError(
            f"recipe.yaml: {' and '.join(wanting)} needs held-out samples; set data.held_out or data.held_out_fraction"
        )


def evaluate(engine: Engine, held_out: HeldOut | None) -> Evaluation:
    """Measure on all ranks; the result is the same on each of them, empty without held-out samples."""
    if held_out is None:
        return Evaluation(loss=None, exact_match=None, example=None)
    loss = engine.eval_loss(held_out.loss_batches) if held_out.loss_batches else None
    answers = _answers(engine, held_out, held_out.questions)
    return Evaluation(
        loss=loss,
        exact_match=_part_right(answers[: held_out.graded]),
        example=answers[0] if answers else None,
        prompts_match=_part_right(_answers(engine, held_out, held_out.prompts)),
        answers=tuple(answers[: held_out.shown]),
    )


def _answers(engine: Engine, held_out: HeldOut, questions: Questions | None) -> list[Answer]:
    """Of all ranks, in the order of the prompts; ranks of one replica have the same."""
    if questions is None:
        return []
    generated = engine.generate(
        questions.batches, max_new_tokens=held_out.max_new_tokens, stop_token_ids=held_out.stop_token_ids
    )
    # The last batches are filled up with rows that nobody asked for.
    rows = zip(questions.numbers, questions.prompts, questions.answers, generated, strict=False)
    answers = {
        number: Answer(prompt, expected.strip(), held_out.decode(_until(tokens, held_out.stop_token_ids)).strip())
        for number, prompt, expected, tokens in rows
    }
    of_all_ranks = {number: answer for share in engine.gather(answers) for number, answer in share.items()}
    return [of_all_ranks[number] for number in sorted(of_all_ranks)]


def _until(tokens: list[int], stops: Sequence[int]) -> list[int]:
    """What comes before the first token that ends an answer: a tokenizer need not flag it as special."""
    ends = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:ends]


def _part_right(answers: Sequence[Answer]) -> float | None:
    return sum(answer.right for answer in answers) / len(answers) if answers else None
