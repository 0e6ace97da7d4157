"""Training on several ranks beside training in one process, and what it keeps in memory."""

from collections.abc import Mapping, Sequence

from toolkit.lessons.drawings.picture import BLUE, GREY, ORANGE, Picture, Sheet, logarithmic, styled
from toolkit.lessons.pipeline import Pipelined
from toolkit.lessons.two_layers import Descent
from toolkit.lessons.zero import Kept


@styled
def descents(runs: Mapping[str, Sequence[Descent] | Sequence[Pipelined]]) -> Picture:
    """Losses of one process as a line, of the ranks together as points."""
    sheet = Sheet(10.5, 3.3, (1.0,) * len(runs))
    for axes, (name, ranks) in zip(sheet.panels, runs.items(), strict=True):
        last = ranks[-1]  # of a pipeline, the last stage has the loss
        axes.plot(last.alone, color=GREY, linewidth=1.5, label="one process")
        axes.plot(last.losses, ".", color=BLUE, markersize=7, label=f"{len(ranks)} ranks")
        axes.set(yscale="log", xlabel="step")
        logarithmic(axes.yaxis)
        axes.grid()
        difference = max(one.difference for one in ranks)
        axes.set_title(f"{name}\nweights differ by {difference:.0e} at most")
    sheet.panels[0].set_ylabel("loss")
    sheet.panels[0].legend()
    return sheet.finish()


@styled
def kept(found: Sequence[Mapping[str, Kept]]) -> Picture:
    """Adam's states on each rank, and what each rank sends, with and without ZeRO."""
    sheet = Sheet(10.5, 2.2, (1.0, 1.0))
    for axes, field, title in zip(
        sheet.panels,
        ("state_bytes", "sent_bytes"),
        ("Adam's states held, bytes", "Sent in all steps, bytes"),
        strict=True,
    ):
        for place, (name, colour) in enumerate(zip(found[0], (ORANGE, BLUE), strict=True)):
            at = [rank + (place - 0.5) * 0.38 for rank in range(len(found))]
            axes.bar(at, [getattr(one[name], field) for one in found], 0.36, color=colour, label=name)
        axes.set_xticks(range(len(found)), [f"rank {rank}" for rank in range(len(found))])
        axes.set_title(title)
        axes.grid(axis="y")
        axes.yaxis.set_major_formatter("{x:,.0f}")
    sheet.panels[0].legend(loc="upper right", ncols=2)
    sheet.panels[0].margins(y=0.25)
    return sheet.finish()
