"""`toolkit doctor`."""

from pathlib import Path
from typing import Annotated

import typer

import toolkit
from toolkit.doctor.api import examine
from toolkit.doctor.machine import Machine
from toolkit.doctor.redact import Identity
from toolkit.doctor.render import as_json, as_markdown, as_text
from toolkit.errors import SpecError

app = typer.Typer()

_COLOURS = {"error": "red", "no": "red", "warning": "yellow", "untried": "yellow", "note": "cyan", "yes": "green"}


@app.command()
def doctor(
    full: Annotated[
        bool,
        typer.Option("--full", help="Also import every library and compile DeepSpeed's ops: minutes, the first time."),
    ] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print everything as JSON, without what names you.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Also print all that was found out.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a Markdown file for a bug report: no names, home paths or secrets.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --report.")] = False,
) -> None:
    """Say what this machine can run, what is in the way, and the command that mends it.

    Exit code 1 where something keeps training from starting.
    """
    if report is not None:
        _check_report(report, overwrite=overwrite)
    machine = Machine.here()
    found = examine(machine, full=full, noted=lambda words: typer.echo(words, err=True))
    identity = Identity.of(machine)
    if report is not None:
        _write(report, as_markdown(found, identity, version=toolkit.__version__))
        typer.echo(f"Written to {report}; look through it before you attach it.", err=True)
    if as_data:
        typer.echo(as_json(found, identity, version=toolkit.__version__))
    else:
        typer.echo(as_text(found, facts=facts, paint=_paint))
    if found.blocks_training:
        raise typer.Exit(1)


def _paint(word: str, kind: str) -> str:
    return typer.style(word, fg=_COLOURS.get(kind), bold=True)


def _check_report(path: Path, *, overwrite: bool) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SpecError(f"--report {path}: needs a file in a folder that exists")
    if path.exists() and not overwrite:
        raise SpecError(f"--report {path}: there is such a file; add --overwrite, or name another")


def _write(path: Path, text: str) -> None:
    """Beside its place, then into it: a report is whole or not there."""
    beside = path.with_name(f"{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise SpecError(f"--report {path}: cannot be written ({error.strerror})") from None
