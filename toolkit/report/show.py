"""Runs on the console, as a page and as pictures: what `toolkit report` does, and what ends a run and the demo."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from toolkit.errors import ConfigError, MachineError
from toolkit.report.files import refuse_others, write_whole
from toolkit.report.page.document import document
from toolkit.report.record import read_records
from toolkit.report.results import Measured, measured
from toolkit.report.run_table import measured_report, runs_report
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import WATCHING, ScheduleConfig, learning_rate, num_warmup_steps

_ASSUMED_STEPS = 1000
_REMEDY = "give -o another place"


def show_runs(folders: Sequence[Path], console: Console, *, page: Path | None = None) -> None:
    """Print the results of one run or of several, write their page and draw their pictures.

    Args:
        folders: of the runs.
        console: to print on.
        page: an .html file, with one picture of the same name beside it. Without it a run has report.html and plots/ in
            its own folder, and of several report.html and report.png are in the current one.

    Raises:
        ConfigError: not a run folder, or a name is taken by a file that no report made.
        MachineError: no room for page or pictures; the tables are printed all the same.
    """
    if page is not None and page.suffix.lower() != ".html":
        raise ConfigError(f"-o {page}: needs a name that ends in .html")
    runs = [measured(record) for record in read_records(folders)]
    own = page is None and len(runs) == 1
    place = page or (runs[0].record.run.folder.report if own else Path("report.html"))
    for path in (place,) if own else (place, place.with_suffix(".png")):
        refuse_others(path, remedy=_REMEDY)
    console.print(measured_report(runs[0]) if len(runs) == 1 else runs_report(runs))
    _write_page(runs, place, console)
    _draw(runs, None if own else place.with_suffix(".png"), console)


def show_run(folder: Path, console: Console) -> None:
    """The same of a run that has just ended; that somebody else's file has the page's name is no failure of it.

    Raises:
        MachineError: no room for page or pictures; the tables are printed all the same.
    """
    runs = [measured(record) for record in read_records([folder])]
    console.print(measured_report(runs[0]))
    place = runs[0].record.run.folder.report
    try:
        refuse_others(place, remedy=f"`toolkit report {folder} -o PAGE` writes it elsewhere")
    except ConfigError as error:
        console.print(str(error))
    else:
        _write_page(runs, place, console)
    _draw(runs, None, console)


def _write_page(runs: Sequence[Measured], place: Path, console: Console) -> None:
    write_whole(place, document(runs), remedy=_REMEDY)
    console.print(f"page:     {place}")


def _draw(runs: Sequence[Measured], picture: Path | None, console: Console) -> None:
    """One picture of all, or those of a run in its own folder; nothing but a line where matplotlib is missing."""
    try:
        from toolkit.report.plots import draw_measured, overlay  # needs matplotlib, which tables and page do not
    except MachineError as error:
        console.print(str(error))
        return
    if picture is None:
        paths = draw_measured(runs[0])
    else:
        overlay(runs, picture)
        paths = [picture]
    for path in paths:
        console.print(f"drawn:    {path}")


def show_schedule(recipe_file: Path, steps: int | None, console: Console) -> None:
    """Draw the learning rate of a recipe beside it, and say its turning points.

    Args:
        recipe_file: recipe.yaml.
        steps: optimizer steps of the run; without it the recipe's `max_steps`, or 1,000 where epochs decide.
        console: to print on.

    Raises:
        SpecError: the recipe is wrong.
        MachineError: no matplotlib, or the picture cannot be written.
    """
    recipe = Recipe.load(recipe_file)
    count = steps or recipe.max_steps or _ASSUMED_STEPS
    schedule, peak = recipe.schedule, recipe.optimizer.learning_rate
    rates = [learning_rate(schedule, step, num_steps=count, peak=peak) for step in range(count)]
    assumed = "" if steps or recipe.max_steps else " (assumed: the epochs decide; --steps says how many)"
    top = max(range(count), key=rates.__getitem__)
    warmup, watches = num_warmup_steps(schedule, count), schedule.kind in WATCHING
    console.print(
        f"{schedule.kind}: {count:,} steps{assumed}, {warmup:,} of warm-up\n"
        f"first {rates[0]:.3g}, largest {rates[top]:.3g} at step {top + 1:,}"
        + (f"; {_depends_on(schedule, peak)}" if watches else f", last {rates[-1]:.3g}")
    )
    from toolkit.report.schedule_plot import draw_schedule  # needs matplotlib, which the text does not

    path = recipe_file.parent / "schedule.png"
    bounds = (warmup, schedule.min_ratio * peak) if watches else None
    draw_schedule(rates, path, title=f"{schedule.kind}, peak {peak:g}", bounds=bounds)
    console.print(f"drawn:    {path}")


def _depends_on(schedule: ScheduleConfig, peak: float) -> str:
    """What decides the rate after the warm-up, as no plan can know it."""
    lowest = f"never below {schedule.min_ratio * peak:.3g}"
    if schedule.kind == "plateau":
        return (
            f"then the run's held-out loss decides: x {schedule.factor:g} after {schedule.patience + 1} evaluations "
            f"without a better one, {lowest}"
        )
    return (
        f"then the size of the run's updates decides, every {schedule.measure_every} of them: led to "
        f"{schedule.target:g} of the weights, by {schedule.max_adjustment:g} at most, {lowest}"
    )
