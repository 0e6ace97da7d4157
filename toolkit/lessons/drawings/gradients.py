"""What becomes of gradients on their way: divided by the wrong count, or sent in fewer bytes."""

from collections.abc import Mapping

from toolkit.lessons.accumulation import TOKENS, Accumulated
from toolkit.lessons.compression import Compressed
from toolkit.lessons.drawings.axes import grid, legend_below, logarithmic
from toolkit.report.pictures.picture import BLUE, ORANGE, PALE, VERMILION, Picture, canvas, finished
from toolkit.units import human_bytes

_WAYS = {"mean_of_means": ("mean of means", VERMILION), "sum_over_count": ("sum over count", BLUE)}


def draw_accumulation(found: Mapping[str, Accumulated]) -> Picture:
    """What one token counts, by micro-batch, and what becomes of the loss."""
    with canvas(10, 3.3, ncols=2, width_ratios=(1.25, 1.0)) as (figure, (left, right)):
        names = [f"rank {rank}\n{count}" for rank, counts in enumerate(TOKENS) for count in counts]
        for way, (name, colour) in _WAYS.items():
            weights = [weight for counts in found[way].token_weights for weight in counts]
            if way == "mean_of_means":
                left.bar(range(len(weights)), [one - 1 for one in weights], 0.6, 1.0, color=colour, label=name)
            else:
                left.plot(weights, "o", color=colour, label=name)
            right.plot(found[way].losses, color=colour, label=f"{name}: first gradient off by {found[way].error:.2g}")
        left.set_xticks(range(len(names)), names, fontsize=9)
        left.set(xlabel="tokens of each micro-batch", yscale="log", ylim=(0.3, 60))
        logarithmic(left.yaxis)
        left.set_title("What one token counts; 1 is its fair part")
        left.axhline(1, color=PALE, linewidth=0.8)
        left.legend(loc="upper right", ncols=2)
        right.set(xlabel="step", ylim=(0, None))
        right.set_title("Mean loss over all tokens")
        right.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
        for axes in (left, right):
            grid(axes, axis="y")
        told = [f"{name}: last loss {found[way].losses[-1]:.2f}" for way, (name, _) in _WAYS.items()]
        return finished(figure, f"What one token counts, and the mean loss over all. {'; '.join(told)}.")


def draw_compression(found: Mapping[str, Compressed]) -> Picture:
    """Losses by step, and by what has been sent until then."""
    with canvas(10, 3.5, ncols=2) as (figure, panels):
        for (name, run), (colour, line) in zip(found.items(), _LINES, strict=True):
            label = f"{name}: {human_bytes(run.sent_bytes)} per step"
            sent = [max(step, 0.5) * run.sent_bytes for step in range(len(run.losses))]
            panels[0].plot(run.losses, color=colour, linestyle=line, label=label)
            panels[1].plot(sent, run.losses, color=colour, linestyle=line)
        for axes, label in zip(panels, ("step", "bytes sent by a rank"), strict=True):
            axes.set(yscale="log", xlabel=label)
            logarithmic(axes.yaxis)
            grid(axes)
        panels[0].set_ylabel("loss, part of the first")
        panels[1].set_xscale("log")
        panels[1].xaxis.set_major_formatter("{x:,.0f}")
        legend_below(panels[0], columns=3)
        told = [f"{name}: {run.sent_bytes:,} bytes per step, loss {run.losses[-1]:.3f}" for name, run in found.items()]
        return finished(figure, f"Loss by step and by bytes. {'; '.join(told)}.")


_LINES = ((PALE, "-"), (ORANGE, ":"), (ORANGE, "-"), (BLUE, ":"), (BLUE, "-"))
