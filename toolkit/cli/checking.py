"""`toolkit check`."""

import typing
from pathlib import Path
from typing import Annotated, Any

import typer

import toolkit
from toolkit.check import api
from toolkit.check.context import Asked, Method, Reader
from toolkit.check.correct import correct
from toolkit.check.finding import Placed, in_order
from toolkit.check.releases import deepspeed_release
from toolkit.check.render import Format, rendered
from toolkit.errors import SpecError

app = typer.Typer()


@app.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(help="ds_config.json, accelerate YAML, recipe.yaml, plan.json, or run folders.")
    ],
    style: Annotated[str, typer.Option("--format", help="text, json, sarif or github.")] = "text",
    kind: Annotated[
        str | None, typer.Option(help="What the files are: ds_config, accelerate, recipe or plan; default: told apart.")
    ] = None,
    deepspeed: Annotated[
        str | None, typer.Option(metavar="X.Y.Z", help="The release to check for; default: the installed one.")
    ] = None,
    read_by: Annotated[
        str | None,
        typer.Option(help='Who reads a ds_config: toolkit, trainer (fills in "auto") or deepspeed; default: guessed.'),
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="Ranks of the run; default: of the plan beside.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --cluster: also say whether the model fits.")] = None,
    cluster: Annotated[str | None, typer.Option(help="With --model: as 8xA100-80GB.")] = None,
    seq_len: Annotated[int, typer.Option(min=1, help="With --model: tokens of the longest sequence.")] = 2048,
    method: Annotated[
        str | None, typer.Option(help="What is trained: full, lora or qlora; default: not known, with --model full.")
    ] = None,
    checkpointing: Annotated[str, typer.Option(help="With --model: none, selective or full.")] = "full",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    write: Annotated[
        bool, typer.Option("--fix", help="Write a corrected copy, NAME.fixed.json, and print the difference.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="With --fix: the copy of the one file.")] = None,
) -> None:
    """Find what is wrong, or silently without effect, in the configs of a run: this toolkit's or anybody's.

    Exit code 1 where there is an error, 2 where a file cannot be read.
    """
    if (model is None) != (cluster is None):
        raise SpecError("--model and --cluster belong together; give both, or none")
    asked = (
        None if model is None or cluster is None else Asked(model, cluster, seq_len, method or "full", checkpointing)
    )
    question = api.Question(
        deepspeed_release(deepspeed),
        world_size,
        _one_of("--read-by", read_by, typing.get_args(Reader)),
        _one_of("--kind", kind, typing.get_args(api.FileKind)),
        asked,
        _one_of("--method", method, typing.get_args(Method)),
    )
    _check_output(files, write=write, output=output)
    chosen: Format = _one_of("--format", style, typing.get_args(Format)) or "text"
    found = _fixed(files, question, output) if write else api.check(files, question)
    text = rendered(found, chosen, files=len(files), version=toolkit.__version__)
    if text:
        typer.echo(text)
    failing = ("error", "warning") if strict else ("error",)
    if any(one.finding.severity in failing for one in found):
        raise typer.Exit(1)


def _one_of(option: str, given: str | None, known: tuple[Any, ...]) -> Any:
    """The word, where it is one of the known; None where none is given.

    Raises:
        SpecError: it is another.
    """
    if given is not None and given not in known:
        raise SpecError(f"{option} is {given!r}, needs {', '.join(known[:-1])} or {known[-1]}")
    return given


def _check_output(files: list[Path], *, write: bool, output: Path | None) -> None:
    if output is not None and (not write or len(files) != 1):
        raise SpecError(f"--output {output} names the corrected copy of one file; give --fix and one file with it")
    if output is not None and output.suffix != files[0].suffix:
        raise SpecError(f"--output {output}: needs the ending of {files[0].name}, which says what is in it")
    for path in files if write else ():
        if path.is_dir():
            raise SpecError(f"--fix {path}: needs files; name those of the folder")


def _fixed(files: list[Path], question: api.Question, output: Path | None) -> list[Placed]:
    """Write the corrected copies, print what changed to stderr, and check the copies."""
    remaining: list[Placed] = []
    for path in files:
        corrected = correct(path, question, output)
        typer.echo(corrected.difference, err=True, nl=False)
        remaining += corrected.remaining
    return in_order(remaining)
