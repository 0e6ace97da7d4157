"""The command line's entry; its commands are in toolkit/cli."""

import sys

import typer

from toolkit.cli import converting, evaluating, exporting, measuring, planning, runs
from toolkit.errors import ToolkitError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Plan, launch and export LLaMA fine-tuning runs on more than one GPU.",
)
for group in (planning, runs, exporting, evaluating, converting, measuring):
    app.add_typer(group.app)


def main() -> None:
    """Console script: a ToolkitError is one message and its exit code."""
    try:
        app()
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
