"""An engine without processes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.engines.base import Batch, StepResult
from toolkit.run_folder import RunFolder


class ScriptedEngine:
    """Tells the given results one after the other."""

    world_size = 2
    device = torch.device("cpu")
    notes: tuple[str, ...] = ()

    def __init__(self, results: Sequence[StepResult], rank: int = 0) -> None:
        self.rank = self.data_rank = rank
        self.learning_rates: list[float] = []
        self._results = iter(results)

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        self.learning_rates.append(learning_rate)
        return next(self._results)

    def eval_loss(self, batches: Sequence[Batch]) -> float:
        return 1.0

    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Each prompt's own tokens, doubled."""
        return [[2 * token for token in row] for batch in batches for row in batch["input_ids"].tolist()]

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(())

    def close(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def engine() -> Callable[..., ScriptedEngine]:
    return ScriptedEngine
