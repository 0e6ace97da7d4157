"""Training in 16 bits: what is too small, what is too large, what is lost in adding."""

import math
from collections.abc import Mapping, Sequence

from toolkit.lessons.drawings.picture import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    Picture,
    Sheet,
    logarithmic,
    styled,
)
from toolkit.lessons.precision import Magnitudes, Trained

_SMALLEST, _NORMAL, _LARGEST = -24, -14, 16
"""log2 of fp16's smallest number, of the smallest with all its digits, and of where it ends."""


@styled
def magnitudes(found: Sequence[Magnitudes]) -> Picture:
    """Where the gradients lie in the range of fp16, without a scale and with one."""
    sheet = Sheet(10.5, 3.0)
    axes = sheet.panels[0]
    for one, colour in zip(found, (RED, BLUE), strict=True):
        shift = round(math.log2(one.scale))
        name = f"loss x 2^{shift}" if shift else "as they are"
        label = f"{name}: {one.vanished:.0%} are 0 in fp16"
        exponents = [exponent + shift for exponent in one.exponents]
        axes.hist(exponents, bins=[-50 + 0.5 * half for half in range(140)], color=colour, alpha=0.75, label=label)
    axes.axvspan(_SMALLEST, _NORMAL, color=SKY, alpha=0.18, linewidth=0)
    axes.axvspan(_NORMAL, _LARGEST, color=SKY, alpha=0.38, linewidth=0)
    top = axes.get_ylim()[1]
    for left, text in (
        (-49, "too small for fp16"),
        (_SMALLEST + 0.4, "some digits"),
        (_NORMAL + 0.4, "fp16 with all its digits"),
        (_LARGEST + 0.4, "too large"),
    ):
        axes.text(left, top * 1.02, text, fontsize=9, color=GREY)
    axes.set(xlim=(-50, 22), ylim=(0, top * 1.12), xlabel="log2 of a gradient's magnitude", ylabel="numbers")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
    return sheet.finish()


@styled
def scaling(runs: Mapping[str, Trained]) -> Picture:
    """Losses in fp32 and in fp16 by kind of scale, and the dynamic scale as it goes."""
    sheet = Sheet(10.5, 3.3, (1.2, 1.0))
    left, right = sheet.panels
    for (name, run), colour in zip(runs.items(), (GREY, RED, ORANGE, BLUE), strict=True):
        left.plot(
            run.losses,
            color=colour,
            label=name,
            linewidth=4 if colour == GREY else 1.5,
            alpha=0.5 if colour == GREY else 1,
        )
        if run.num_skipped and run.num_skipped < len(run.losses):
            right.plot(run.scales, color=colour, drawstyle="steps-post")
            right.set_title(f"{name}: {run.num_skipped} of {len(run.losses)} steps skipped")
    left.set(yscale="log", xlabel="step", ylabel="loss")
    logarithmic(left.yaxis)
    left.legend()
    right.set_yscale("log", base=2)
    right.set(xlabel="step", ylabel="scale of the loss")
    for axes in sheet.panels:
        axes.grid()
    return sheet.finish()


@styled
def master_weights(runs: Mapping[str, Trained]) -> Picture:
    """Losses by where the weights are kept, and the part of the weights that a step leaves as they were."""
    sheet = Sheet(10.5, 3.3, (1.0, 1.0))
    left, right = sheet.panels
    for (name, run), colour in zip(runs.items(), (GREY, GREEN, RED), strict=True):
        wide, alpha = (4, 0.5) if colour == GREY else (1.5, 1.0)
        left.plot(run.losses, color=colour, label=name, linewidth=wide, alpha=alpha)
        right.plot(run.unchanged, color=colour, linewidth=wide, alpha=alpha)
    left.set(yscale="log", xlabel="step", ylabel="loss")
    logarithmic(left.yaxis)
    left.legend()
    right.set(xlabel="step", ylim=(-0.03, 1.0))
    right.yaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
    right.set_title("Weights that a step leaves exactly as they were")
    for axes in sheet.panels:
        axes.grid()
    return sheet.finish()
