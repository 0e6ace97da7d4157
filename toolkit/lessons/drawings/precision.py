"""Training in 16 bits: what is too small, what is too large, what is lost in adding."""

import math
from collections.abc import Mapping, Sequence

from toolkit.lessons.drawings.axes import grid, logarithmic
from toolkit.lessons.precision import Magnitudes, Trained
from toolkit.report.pictures.picture import BLUE, GREEN, ORANGE, PALE, SKY, VERMILION, Picture, canvas, finished

_SMALLEST, _NORMAL, _LARGEST = -24, -14, 16
"""log2 of fp16's smallest number, of the smallest with all its digits, and of where it ends."""


def draw_magnitudes(found: Sequence[Magnitudes]) -> Picture:
    """Where the gradients lie in the range of fp16, without a scale and with one."""
    with canvas(10, 2.9) as (figure, axes):
        for one, colour in zip(found, (VERMILION, BLUE), strict=True):
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
            axes.text(left, top * 1.02, text, fontsize=9, color=PALE)
        axes.set(xlim=(-50, 22), ylim=(0, top * 1.12), xlabel="log2 of a gradient's magnitude", ylabel="numbers")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
        told = [f"loss x 2^{round(math.log2(one.scale))}: {one.vanished:.0%} are 0" for one in found]
        return finished(figure, f"Magnitudes of gradients in the range of fp16. {'; '.join(told)}.")


def draw_scaling(runs: Mapping[str, Trained]) -> Picture:
    """Losses in fp32 and in fp16 by kind of scale, and the dynamic scale as it goes."""
    with canvas(10, 3.2, ncols=2, width_ratios=(1.2, 1.0)) as (figure, (left, right)):
        for (name, run), colour in zip(runs.items(), (PALE, VERMILION, ORANGE, BLUE), strict=True):
            left.plot(
                run.losses,
                color=colour,
                label=name,
                linewidth=4 if colour == PALE else 1.5,
                alpha=0.5 if colour == PALE else 1,
            )
            if run.num_skipped and run.num_skipped < len(run.losses):
                right.plot(run.scales, color=colour, drawstyle="steps-post")
                right.set_title(f"{name}: {run.num_skipped} of {len(run.losses)} skipped")
        left.set(yscale="log", xlabel="step", ylabel="loss")
        logarithmic(left.yaxis)
        left.legend()
        right.set_yscale("log", base=2)
        right.yaxis.set_major_formatter(lambda scale, _: f"2^{round(math.log2(scale))}")
        right.set(xlabel="step", ylabel="scale of the loss")
        for axes in (left, right):
            grid(axes)
        told = [f"{name}: {run.losses[-1]:.3f}" for name, run in runs.items()]
        return finished(figure, f"Losses and the dynamic scale. Last loss, {'; '.join(told)}.")


def draw_master_weights(runs: Mapping[str, Trained]) -> Picture:
    """Losses by where the weights are kept, and the part of the weights that a step leaves as they were."""
    with canvas(10, 3.2, ncols=2) as (figure, (left, right)):
        for (name, run), colour in zip(runs.items(), (PALE, GREEN, VERMILION), strict=True):
            wide, alpha = (4, 0.5) if colour == PALE else (1.5, 1.0)
            left.plot(run.losses, color=colour, label=name, linewidth=wide, alpha=alpha)
            right.plot(run.unchanged, color=colour, linewidth=wide, alpha=alpha)
        left.set(yscale="log", xlabel="step", ylabel="loss")
        logarithmic(left.yaxis)
        left.legend()
        right.set(xlabel="step", ylim=(-0.03, 1.0))
        right.yaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
        right.set_title("Weights that a step leaves exactly as they were")
        for axes in (left, right):
            grid(axes)
        told = [f"{name}: {run.losses[-1]:.3f}, {run.unchanged[-1]:.0%} unchanged" for name, run in runs.items()]
        return finished(figure, f"Losses, and weights that a step does not change. At the end, {'; '.join(told)}.")
