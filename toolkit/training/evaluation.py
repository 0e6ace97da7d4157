"""What the model knows: loss and exact match on samples that training never sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.engines.base import Batch, Engine


@dataclass(frozen=True)
class Questions:
    """This rank's share of the held-out prompts; every rank has the same number of batches."""

    batches: Sequence[Batch]
    """Left-padded prompts; rows beyond `prompts` only fill up the last batches."""
    prompts: Sequence[str]
    """The prompts as text, in the order of the rows."""
    answers: Sequence[str]
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


def evaluate(
    engine: Engine,
    *,
    loss_batches: Sequence[Batch],
    questions: Questions | None,
    decode: Callable[[list[int]], str],
    max_new_tokens: int,
) -> Evaluation:
    """Measure on all ranks; the result is the same on each of them.

    Args:
        engine: the prepared model.
        loss_batches: this rank's share of the held-out samples, as many batches as on every other rank.
        questions: this rank's share of the prompts, or None to generate nothing.
        decode: token ids of an answer to text, special tokens left out.
        max_new_tokens: longest answer.
    """
    loss = engine.eval_loss(loss_batches) if loss_batches else None
    if questions is None:
        return Evaluation(loss=loss, exact_match=None, example=None)
    generated = engine.generate(questions.batches, max_new_tokens=max_new_tokens)
    answers = [
        Answer(prompt, expected.strip(), decode(tokens).strip())
        for prompt, expected, tokens in zip(questions.prompts, questions.answers, generated, strict=False)
    ]
    of_all_ranks: list[Answer] = [answer for share in engine.gather(answers) for answer in share]
    right = sum(answer.given == answer.expected for answer in of_all_ranks)
    return Evaluation(loss=loss, exact_match=right / max(len(of_all_ranks), 1), example=of_all_ranks[0])
