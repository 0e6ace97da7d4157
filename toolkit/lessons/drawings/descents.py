"""Training on several ranks beside training in one process, and what it keeps in memory."""

from collections.abc import Mapping, Sequence

from toolkit.lessons.drawings.axes import grid, logarithmic
from toolkit.lessons.pipeline import Pipelined
from toolkit.lessons.two_layers import Descent
from toolkit.lessons.zero import Kept
from toolkit.report.pictures.picture import BLUE, ORANGE, PALE, Picture, canvas, finished


def draw_descents(runs: Mapping[str, Sequence[Descent] | Sequence[Pipelined]]) -> Picture:
    """Losses of one process as a line, of the ranks together as points."""
    with canvas(10, 3.2, ncols=len(runs), squeeze=False) as (figure, [panels]):
        for axes, (name, ranks) in zip(panels, runs.items(), strict=True):
            last = ranks[-1]  # of a pipeline, the last stage has the loss
            axes.plot(last.alone, color=PALE, linewidth=1.5, label="one process")
            axes.plot(last.losses, ".", color=BLUE, markersize=7, label=f"{len(ranks)} ranks")
            axes.set(yscale="log", xlabel="step")
            logarithmic(axes.yaxis)
            grid(axes)
            difference = max(one.difference for one in ranks)
            axes.set_title(f"{name}\nweights differ by {difference:.0e} at most")
        panels[0].set_ylabel("loss")
        panels[0].legend()
        return finished(figure, f"Losses of several ranks lie on those of one process: {', '.join(runs)}.")


def draw_states(found: Sequence[Mapping[str, Kept]]) -> Picture:
    """Adam's states on each rank, and what each rank sends, with and without ZeRO."""
    with canvas(10, 2.2, ncols=2) as (figure, panels):
        for axes, field, title in zip(
            panels,
            ("state_bytes", "sent_bytes"),
            ("Adam's states held, bytes", "Sent in all steps, bytes"),
            strict=True,
        ):
            for place, (name, colour) in enumerate(zip(found[0], (ORANGE, BLUE), strict=True)):
                at = [rank + (place - 0.5) * 0.38 for rank in range(len(found))]
                axes.bar(at, [getattr(one[name], field) for one in found], 0.36, color=colour, label=name)
            axes.set_xticks(range(len(found)), [f"rank {rank}" for rank in range(len(found))])
            axes.set_title(title)
            grid(axes, axis="y")
            axes.yaxis.set_major_formatter("{x:,.0f}")
        panels[0].legend(loc="upper right", ncols=2)
        panels[0].margins(y=0.25)
        told = [f"{name}: {one.state_bytes:,} bytes held, {one.sent_bytes:,} sent" for name, one in found[0].items()]
        return finished(figure, f"Adam's states on a rank. {'; '.join(told)}.")
