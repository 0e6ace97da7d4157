"""The command line: arguments in, one call, text out."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from toolkit.emitters import emit
from toolkit.errors import SpecError, ToolkitError
from toolkit.planner.api import plan_for
from toolkit.report.plan_table import plan_report
from toolkit.report.show import show_run
from toolkit.specs.base import read_mapping
from toolkit.specs.recipe import Recipe

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Plan, launch and export LLaMA fine-tuning runs on more than one GPU.",
)
# Paths and messages may hold brackets, which rich would read as styles.
_out = Console(markup=False, highlight=False)

# What is given on the command line replaces its counterpart in the recipe, too.
_INSTEAD = {
    "epochs": "max_steps",
    "max_steps": "epochs",
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_steps",
}

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what another run left in the folder.")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder written by `toolkit plan -o`.")]


@app.command()
def plan(
    model: Annotated[str | None, typer.Option(help="Folder, hub id, config.json or catalog name of a LLaMA.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="[NODESx]GPUSxNAME as 8xA100-80GB or 2xcpu, or a YAML file; default: this machine."),
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Longest sequence in tokens.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Samples per optimizer step over all ranks.")] = None,
    method: Annotated[str | None, typer.Option(help="full or lora.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapters.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; default: what suits the device.")] = None,
    tp: Annotated[int | None, typer.Option(help="Fix the tensor-parallel size.")] = None,
    pp: Annotated[int | None, typer.Option(help="Fix the number of pipeline stages.")] = None,
    zero: Annotated[int | None, typer.Option(help="Fix the ZeRO stage, 0-3.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Fix the samples per rank per forward pass.")] = None,
    offload: Annotated[str | None, typer.Option(help="Fix what lives in host memory: none, optimizer, all.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="Fix activation checkpointing.")
    ] = None,
    gradient_clipping: Annotated[float, typer.Option(help="Largest global gradient norm.")] = 1.0,
    recipe: Annotated[Path | None, typer.Option(help="Start from this recipe.yaml; options given here win.")] = None,
    data: Annotated[str | None, typer.Option(help="Training samples: a file, folder or hub id.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the samples.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of epochs.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe value, as schedule.kind=linear; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder to write; default: only show.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Choose how to train a model on a cluster, say why, and write the run folder."""
    given = {
        "model": model,
        "workload.seq_len": seq_len,
        "workload.global_batch": global_batch,
        "workload.method": method,
        "workload.lora_rank": lora_rank,
        "workload.precision": precision,
        "data.train": data,
        "optimizer.learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        **_assignments(set_ or []),
    }
    fixed = {
        "tp": tp,
        "pp": pp,
        "zero_stage": zero,
        "micro_batch": micro_batch,
        "offload": offload,
        "activation_checkpointing": checkpointing,
    }
    wanted = _merged(read_mapping(recipe) if recipe else {}, given)
    _require(wanted)
    chosen = plan_for(
        wanted["model"],
        cluster,
        work=wanted["workload"],
        fixed={name: value for name, value in fixed.items() if value is not None},
        gradient_clipping=gradient_clipping,
    )
    wanted["workload"] = chosen.workload.model_dump()
    full_recipe = Recipe.parse(wanted, source=str(recipe) if recipe else "options")
    if output is not None:
        emit(chosen, output, full_recipe, overwrite=overwrite)
    _out.print(plan_report(chosen))
    if output is not None:
        _out.print(f"Written to {output}. Start it with: toolkit launch {output}")


@app.command()
def launch(run: RunArgument, overwrite: Overwrite = False) -> None:
    """Train a run, export the model and draw its curves."""
    from toolkit.launcher import launch as start

    start(run, overwrite=overwrite)
    show_run(run, _out)


@app.command()
def report(run: RunArgument) -> None:
    """Print a run's results and draw loss and throughput into its plots folder."""
    show_run(run, _out)


@app.command()
def demo(
    model: Annotated[str | None, typer.Option(help="Your own model instead of the embedded one.")] = None,
    data: Annotated[str | None, typer.Option(help="Your own samples instead of the embedded ones.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Run folder; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
) -> None:
    """Plan, train, export and compare a small LLaMA, or your own model and samples."""
    from toolkit.demo.run import run_demo

    run_demo(output, model=model, data=data, console=_out)


def _assignments(texts: list[str]) -> dict[str, Any]:
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise SpecError(f"--set {text}: needs KEY=VALUE, as in --set schedule.kind=linear")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {text}: not a YAML value ({getattr(error, 'problem', error)}); quote it") from None
    return values


def _merged(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's mapping with the given dotted keys set; None means not given."""
    for key, value in given.items():
        if value is None:
            continue
        section = base
        *parents, name = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise SpecError(f"{key}: `{parent}` is {section!r}, needs `key: value` lines")
        section[name] = value
        if (other := _INSTEAD.get(name)) and given.get(key.removesuffix(name) + other) is None:
            section.pop(other, None)
    return base


def _require(wanted: dict[str, Any]) -> None:
    work = wanted.setdefault("workload", {})
    if not isinstance(work, dict):
        raise SpecError(f"`workload` is {work!r}, needs `key: value` lines")
    if not isinstance(wanted.get("model"), str | None):
        raise SpecError(f"`model` is {wanted['model']!r}, needs a folder, hub id or catalog name")
    needed = {
        "--model": wanted.get("model"),
        "--seq-len": work.get("seq_len"),
        "--global-batch": work.get("global_batch"),
    }
    if missing := [option for option, value in needed.items() if value is None]:
        raise SpecError(f"{', '.join(missing)} missing; give it, or a --recipe that holds it")


def main() -> None:
    """Console script: a ToolkitError is one message and exit code 2."""
    try:
        app()
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
