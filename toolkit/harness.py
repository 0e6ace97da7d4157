"""lm-evaluation-harness on an exported folder, with task files on this machine; its own numbers, handed through."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from toolkit.errors import CheckpointError, DataError, SpecError

_NO_TASK = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, yaml.YAMLError)


class Score(NamedTuple):
    """One number of one task."""

    task: str
    metric: str
    value: float
    error: float | None
    """Standard error, where the harness knows one."""


def evaluate_export(
    folder: Path, tasks: Sequence[Path], *, batch_size: int, limit: int | None, chat: bool
) -> dict[str, Any]:
    """What the harness finds, as it gives it, without the samples.

    Args:
        folder: a Hugging Face model folder.
        tasks: YAML files; they may name Python functions beside them, which run.
        batch_size: rows per forward pass.
        limit: questions per task; all without it.
        chat: render the prompts with the tokenizer's chat template.

    Raises:
        CheckpointError: no model in the folder.
        SpecError: a task file is missing or wrong.
        DataError: what a task reads is not on this machine.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; give an exported folder, as RUN/final")
    if missing := [str(path) for path in tasks if not path.is_file()]:
        raise SpecError(
            f"--tasks: {', '.join(missing)}: no such file; needs task files of lm-evaluation-harness (YAML)"
        )
    manager = TaskManager(include_defaults=False)  # the built-in tasks are on the network
    loaded = []
    for path in tasks:
        try:
            loaded += manager.load(str(path.resolve()))["tasks"].values()
        except ConnectionError as error:
            raise DataError(f"{path}: its data are not on this machine ({error}); nothing is downloaded") from None
        except _NO_TASK as error:
            told = " ".join(str(error).split())
            raise SpecError(f"{path}: the harness cannot load it: {type(error).__name__}: {told}") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the harness takes cuda, there or not
    model = HFLM(pretrained=str(folder), device=device, batch_size=batch_size, trust_remote_code=False)
    found: dict[str, Any] = simple_evaluate(
        model, tasks=loaded, limit=limit, task_manager=manager, apply_chat_template=chat, log_samples=False
    )
    return found


def scores(found: dict[str, Any]) -> list[Score]:
    """Every number of every task; keys are `metric,filter` and `metric_stderr,filter`."""
    listed = []
    for task, numbers in found["results"].items():
        for key, value in numbers.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{chosen}")
            listed.append(Score(task, metric, float(value), error if isinstance(error, float) else None))
    return listed
