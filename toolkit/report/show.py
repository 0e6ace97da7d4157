"""A finished run on the console and as pictures: what ends `toolkit launch`, `toolkit report` and the demo."""

from pathlib import Path

from rich.console import Console

from toolkit.report.run_table import run_report
from toolkit.report.runs import load_run


def show_run(folder: Path, console: Console) -> None:
    """Print the results and draw the curves.

    Raises:
        ConfigError: not a run folder, or the run has not ended.
        MachineError: no matplotlib, or no room for the pictures; the tables are printed all the same.
    """
    run = load_run(folder)
    console.print(run_report(run))
    from toolkit.report.plots import draw  # needs matplotlib, which the tables do not

    for path in draw(run):
        console.print(f"drawn:    {path}")
