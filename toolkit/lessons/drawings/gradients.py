"""What becomes of gradients on their way: divided by the wrong count, or sent in fewer bytes."""

from collections.abc import Mapping

from toolkit.lessons.accumulation import TOKENS, Accumulated
from toolkit.lessons.compression import Compressed
from toolkit.lessons.drawings.picture import BLUE, GREY, ORANGE, RED, Picture, Sheet, logarithmic, styled
from toolkit.units import human_bytes

_WAYS = {"mean_of_means": ("mean of means", RED), "sum_over_count": ("sum over count", BLUE)}


@styled
def accumulation(found: Mapping[str, Accumulated]) -> Picture:
    """What one token counts, by micro-batch, and what becomes of the loss."""
    sheet = Sheet(10.5, 3.4, (1.25, 1.0))
    left, right = sheet.panels
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
    left.axhline(1, color=GREY, linewidth=0.8)
    left.legend(loc="upper right", ncols=2)
    right.set(xlabel="step", ylim=(0, None))
    right.set_title("Mean loss over all tokens")
    right.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
    for axes in sheet.panels:
        axes.grid(axis="y")
    return sheet.finish()


@styled
def compression(found: Mapping[str, Compressed]) -> Picture:
    """Losses by step, and by what has been sent until then."""
    sheet = Sheet(10.5, 3.6, (1.0, 1.0))
    for (name, run), (colour, line) in zip(found.items(), _LINES, strict=True):
        label = f"{name}: {human_bytes(run.sent_bytes)} per step"
        sent = [max(step, 0.5) * run.sent_bytes for step in range(len(run.losses))]
        sheet.panels[0].plot(run.losses, color=colour, linestyle=line, label=label)
        sheet.panels[1].plot(sent, run.losses, color=colour, linestyle=line)
    for axes, label in zip(sheet.panels, ("step", "bytes sent by a rank"), strict=True):
        axes.set(yscale="log", xlabel=label)
        logarithmic(axes.yaxis)
        axes.grid()
    sheet.panels[0].set_ylabel("loss, part of the first")
    sheet.panels[1].set_xscale("log")
    sheet.legend_below(sheet.panels[0], columns=3)
    return sheet.finish()


_LINES = ((GREY, "-"), (ORANGE, ":"), (ORANGE, "-"), (BLUE, ":"), (BLUE, "-"))
