"""lm-evaluation-harness on an exported folder, with task files on this machine; its own numbers, handed through."""

import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors import SafetensorError

from toolkit.errors import BROKEN_LIBRARY, CheckpointError, DataError, MachineError, SpecError, ToolkitError

_FAULTS = (*BROKEN_LIBRARY, SafetensorError, TemplateError, yaml.YAMLError)
"""What a task file, a template and the harness itself can end in."""


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
        CheckpointError: no model in the folder, or a damaged one.
        SpecError: a task file is missing or wrong, or fails while it runs; or there is no chat template.
        DataError: what a task reads is broken, or not on this machine.
        MachineError: memory runs out.
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
        with _faults(f"{path}: the harness cannot load it", SpecError, own={path.resolve().parent}):
            loaded += manager.load(str(path.resolve()))["tasks"].values()
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the harness takes cuda, there or not
    with _faults(f"{folder}: the model cannot be loaded", CheckpointError, own=set()):
        model = HFLM(pretrained=str(folder), device=device, batch_size=batch_size, trust_remote_code=False)
    if chat and not model.tokenizer.chat_template:
        raise SpecError(f"--chat: {folder} has no chat template; leave --chat out, or evaluate a fine-tuned export")
    own = {path.resolve().parent for path in tasks}
    with _faults(f"{', '.join(map(str, tasks))}: the harness stopped", SpecError, own=own):
        found: dict[str, Any] = simple_evaluate(
            model, tasks=loaded, limit=limit, task_manager=manager, apply_chat_template=chat, log_samples=False
        )
    return found


@contextmanager
def _faults(told: str, kind: type[ToolkitError], *, own: Collection[Path]) -> Iterator[None]:
    """Make one message of what the harness, or a task's own code in these folders, ends with."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{told}: {_words(error, own)}; lower --batch-size") from None
    except ConnectionError as error:
        raise DataError(f"{told}: not on this machine ({error}); nothing is downloaded") from None
    except DatasetsError as error:
        # What is wrong with the file is in the error that this one was made of.
        raise DataError(f"{told}: its data cannot be read: {_words(error.__cause__ or error, own)}") from None
    except _FAULTS as error:
        raise kind(f"{told}: {_words(error, own)}") from None
    except Exception as error:
        # A task's own code may raise what it likes.
        if _place(error, own):
            raise kind(f"{told}: {_words(error, own)}") from None
        raise


def _words(error: BaseException, own: Collection[Path]) -> str:
    """The error in a line, with its place in the task's own code."""
    place = _place(error, own)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({place})' if place else ''}"


def _place(error: BaseException, own: Collection[Path]) -> str | None:
    """File and line of the last call of the task's own code that the error went through."""
    places = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve().parent in own]
    return f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else None


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
