"""A finished run on the console and as pictures: what ends `toolkit launch`, `toolkit report` and the demo."""

from pathlib import Path

from rich.console import Console

from toolkit.report.run_table import run_report
from toolkit.report.runs import load_run
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import WATCHING, ScheduleConfig, learning_rate, num_warmup_steps

_ASSUMED_STEPS = 1000


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
    from toolkit.report.plots import draw_schedule  # needs matplotlib, which the text does not

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
