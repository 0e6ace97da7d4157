"""What a first run needs: a small LLaMA with a tokenizer, and questions with their answers, made on the spot."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from toolkit.demo.questions import KINDS
from toolkit.demo.settings import HIDDEN_SIZE, NUM_LAYERS
from toolkit.demo.tasks import demo_rows, write_demo_data
from toolkit.emitters.command import CPU_ENVIRONMENT
from toolkit.specs.machine import gpu_names


class DemoInputs(NamedTuple):
    """Ordinary files; any others of their kind can take their places."""

    model: Path
    """A Hugging Face folder: random weights, tokenizer, chat template."""
    train: Path
    """JSON lines with `prompt` and `completion`."""
    held_out: Path
    """The same kinds of questions about other values."""


def write_demo_inputs(
    folder: Path | str,
    *,
    kinds: Collection[str] = tuple(KINDS),
    hidden_size: int = HIDDEN_SIZE,
    num_layers: int = NUM_LAYERS,
) -> DemoInputs:
    """Write model and data into `folder`; equal files for equal arguments.

    Args:
        folder: is made where it is missing.
        kinds: of questions, names of `toolkit.demo.questions.KINDS`; fewer kinds are learnt in fewer steps.
        hidden_size: of the model, a multiple of 16.
        num_layers: of the model.

    Raises:
        SpecError: there is no such kind of question.
        MachineError: torch is not installed.
    """
    train, held_out = write_demo_data(Path(folder), kinds=kinds)
    say_that_there_is_no_gpu()
    from toolkit.demo.model import write_demo_model  # needs the training half

    texts = (row[key] for row in demo_rows(kinds=kinds)[0] for key in ("prompt", "completion"))
    write_demo_model(Path(folder) / "model", texts, hidden_size=hidden_size, num_layers=num_layers)
    return DemoInputs(Path(folder) / "model", train, held_out)


def say_that_there_is_no_gpu() -> None:
    """Where there is none: transformers imports DeepSpeed, which else warns that it found none."""
    if not gpu_names():
        os.environ |= CPU_ENVIRONMENT
