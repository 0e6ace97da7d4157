"""A run's results, read from its folder: telemetry, summary, plan."""

import json
from pathlib import Path
from typing import Any

from toolkit.errors import ConfigError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

Step = dict[str, Any]


class Run:
    """A run folder after (or during) training."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.plan = Plan.load(folder.plan)
        self.recipe = Recipe.load(folder.recipe)

    @property
    def steps(self) -> list[Step]:
        """One mapping per optimizer step: step, loss, grad_norm, lr, tokens, tokens_per_second, step_seconds, ...

        Raises:
            ConfigError: nothing has trained here, or a line that is no JSON object (other than a last, unfinished one).
        """
        path = self.folder.telemetry
        if not path.is_file():
            raise ConfigError(f"{path}: not found; train the run first: toolkit launch {self.folder.path}")
        return _json_lines(path)

    @property
    def evaluations(self) -> list[Step]:
        """One mapping per evaluation: step, and what was asked for of held_out_loss, perplexity, exact_match, ...

        Empty where nothing is measured during training.

        Raises:
            ConfigError: as `steps`.
        """
        path = self.folder.evaluations
        return _json_lines(path) if path.is_file() else []

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: loss_first, loss_last, exact_match_before, exact_match_after, tokens_per_second, ...

        Raises:
            ConfigError: the run has not ended, or the file is damaged.
        """
        path = self.folder.summary
        if not path.is_file():
            raise ConfigError(f"{path}: not found; the run has not ended (its steps are in telemetry.jsonl)")
        summary = _json_object(path.read_text(encoding="utf-8", errors="replace"))
        if summary is None:
            raise ConfigError(f"{path}: no JSON object; remove the damaged file to compare by telemetry.jsonl alone")
        return summary

    @property
    def export(self) -> Path:
        """The fine-tuned model as a Hugging Face folder."""
        return self.folder.export

    @property
    def adapter(self) -> Path | None:
        """The adapters as a folder of peft's; None where all weights were trained."""
        return None if self.plan.workload.method == "full" else self.folder.adapter


def load_run(folder: Path | str) -> Run:
    """Open a run folder.

    Raises:
        ConfigError: not a run folder.
    """
    run = RunFolder(Path(folder))
    run.require_inputs()
    return Run(run)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        content = _json_object(line)
        if content is not None:
            found.append(content)
        elif number < len(lines) and line.strip():
            raise ConfigError(f"{path}:{number}: not a JSON line; the file was changed by hand")
    return found


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        return None
    return found if isinstance(found, dict) else None
