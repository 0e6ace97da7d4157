"""What the ranks of test_unequal_shares run: steps whose micro-batches are dealt out as a test says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ranks.runs import Trained, batches_of, open_engine
from ranks.settings import LEARNING_RATES
from toolkit.data.loader import GlobalBatches
from toolkit.engines.base import StepResult


def train_with_shares(folder: Path, shares: Sequence[Sequence[int] | None]) -> Trained:
    """As `train`; the replicas have the first of these shares in the first step, and so on, round and round."""
    engine = open_engine(folder)
    batches, results = batches_of(folder, engine), list[StepResult]()
    for index, rate in enumerate(LEARNING_RATES):
        counts = shares[index % len(shares)]
        micro_batches = batches.step(index, counts)
        assert counts is None or len(micro_batches) == counts[engine.data_rank]
        results.append(engine.train_step(micro_batches, learning_rate=rate))
    weights = dict(engine.full_state())
    engine.close()
    return Trained(results, weights)


def with_shares(folder: Path, shares: Sequence[Sequence[int] | None], body: Callable[..., Any], *given: object) -> Any:
    """Whatever `body` trains of the run, dealt out as in `train_with_shares`."""
    real = GlobalBatches.step
    with mock.patch.object(GlobalBatches, "step", lambda own, index: real(own, index, shares[index % len(shares)])):
        return body(folder, *given)
