"""`toolkit evaluate`: an exported model under lm-evaluation-harness."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from toolkit.cli import options
from toolkit.errors import MachineError

app = typer.Typer()

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Exported model folder, as RUN/final.")],
    tasks: Annotated[
        list[Path], typer.Option(help="Task file of lm-evaluation-harness (YAML); may be repeated. Its code runs.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON to write; default: EXPORT.lm_eval.json beside it.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task; default: all.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Render prompts with the model's chat template.")] = False,
) -> None:
    """Measure an exported model on task files of this machine; nothing is downloaded."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MachineError(
            "`toolkit evaluate` runs lm-evaluation-harness, which is not installed; "
            "pip install -c constraints.txt -e '.[train,eval]' in the toolkit's own folder"
        )
    os.environ |= _OFFLINE  # read by Hugging Face's libraries when they are imported
    from toolkit.harness import evaluate_export, scores

    found = evaluate_export(folder, tasks, batch_size=batch_size, limit=limit, chat=chat)
    table = Table("task", "metric", "value", "standard error")
    for score in scores(found):
        error = "" if score.error is None else f"{score.error:.4f}"
        table.add_row(score.task, score.metric, f"{score.value:.4f}", error)
    options.console.print(table)
    path = output or folder.resolve().with_name(f"{folder.resolve().name}.lm_eval.json")
    try:
        path.unlink(missing_ok=True)  # a link would be written through
        path.write_text(json.dumps(found, indent=2, default=str, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as failure:
        raise MachineError(f"{path}: cannot be written ({failure.strerror}); give another file with -o") from None
    options.console.print(f"written:  {path}", soft_wrap=True)
