"""All-reduce: what goes round the ring, and who sends how much."""

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from toolkit.lessons.collectives import Exchange, predicted_bytes
from toolkit.lessons.drawings.axes import grid, without_frame
from toolkit.report.pictures.picture import BLUE, ORANGE, Picture, canvas, finished
from toolkit.units import human_bytes

_WAYS = {"gather_and_broadcast": ("gather and broadcast", ORANGE), "ring_all_reduce": ("ring", BLUE)}
_SHADES = ("#F3F3F3", "#D3E5F1", "#A6CBE3", "#6FACD1", "#2F86BD")


def draw_ring(seen: Sequence[Sequence[Sequence[int]]]) -> Picture:
    """Which ranks' numbers are in which chunk of which rank, [rank][step][chunk], one panel per step."""
    n = len(seen)
    with canvas(10, 2.2, ncols=2 * n - 1, squeeze=False) as (figure, [panels]):
        for step, axes in enumerate(panels):
            for rank in range(n):
                for chunk in range(n):
                    number = seen[rank][step][chunk]
                    within = [str(one) for one in range(n) if number // 10**one % 10]
                    moved = step > 0 and number != seen[rank][step - 1][chunk]
                    axes.add_patch(
                        Rectangle(
                            (chunk, rank),
                            0.94,
                            0.94,
                            facecolor=_SHADES[len(within)],
                            edgecolor="black" if moved else "none",
                            linewidth=1.5,
                            zorder=2 + moved,
                        )
                    )
                    colour = "white" if len(within) == n else "black"
                    place = {"ha": "center", "va": "center", "fontsize": 8, "zorder": 5}
                    axes.text(chunk + 0.47, rank + 0.5, "".join(within), color=colour, **place)
            axes.set(xlim=(-0.1, n), ylim=(n, -0.1), aspect="equal", xticks=[], yticks=[])
            axes.set_title("start" if step == 0 else f"step {step}", fontsize=10, loc="center")
            axes.set_xlabel("" if step == 0 else "reduce-scatter" if step < n else "all-gather", fontsize=9)
            without_frame(axes)
        panels[0].set_yticks([rank + 0.47 for rank in range(n)], [f"rank {rank}" for rank in range(n)])
        panels[0].set_xlabel(f"{n} chunks", fontsize=9)
        figure.suptitle("Whose numbers are in each chunk; framed: what has just come from the left", x=0.01, ha="left")
        return finished(
            figure, f"Whose numbers {n} ranks have in each chunk, over {len(panels) - 1} steps of the ring."
        )


def draw_all_reduce_bytes(by_world: Mapping[int, Sequence[Mapping[str, Exchange]]], size: int) -> Picture:
    """Measured and predicted bytes: by rank in the largest world, and of the busiest rank by world size."""
    with canvas(10, 3.4, ncols=2, width_ratios=(1.0, 1.1)) as (figure, (left, right)):
        n, width = max(by_world), 0.38
        for place, (way, (name, colour)) in enumerate(_WAYS.items()):
            at = [rank + (place - 0.5) * width for rank in range(n)]
            left.bar(at, [one[way].sent_bytes / size for one in by_world[n]], width * 0.94, color=colour, label=name)
            marks = [predicted_bytes(way, size, rank=rank, world_size=n) / size for rank in range(n)]
            label = "formula" if place else None
            left.plot(at, marks, "_", color="black", markersize=17, markeredgewidth=2, label=label)
            worlds = range(2, 65)
            right.plot(worlds, [_busiest(way, size, w) / size for w in worlds], color=colour)
            measured = {w: max(one[way].sent_bytes for one in found) / size for w, found in by_world.items()}
            right.plot(list(measured), list(measured.values()), "o", color=colour, label=f"{name}, measured")
            right.annotate(
                {"ring": "2 (n - 1) / n, never more than 2"}.get(name, "n - 1"),
                (12, _busiest(way, size, 12) / size),
                xytext=(10, -8 if place == 0 else 7),
                textcoords="offset points",
                color=colour,
            )
        left.set_xticks(range(n), [f"rank {rank}" for rank in range(n)])
        left.set_ylabel(f"sent, times the tensor ({human_bytes(size)})")
        left.set_title(f"By rank, {n} ranks")
        left.legend(loc="upper right")
        right.set(xscale="log", yscale="log", xlabel="ranks n")
        right.set(xticks=[2, 3, 4, 8, 16, 32, 64], yticks=[1, 2, 4, 8, 16, 32, 64])
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_formatter("{x:g}")
        right.minorticks_off()
        right.set_title("By the busiest rank; points measured, lines the formula")
        right.legend(loc="upper left")
        for axes in (left, right):
            grid(axes, axis="y")
        told = [f"{name}, {n} ranks: {_busiest(way, size, n) / size:g} tensors" for way, (name, _) in _WAYS.items()]
        return finished(figure, f"Sent by the busiest rank, measured and by the formula. {'; '.join(told)}.")


def _busiest(way: str, size: int, world_size: int) -> float:
    return max(predicted_bytes(way, size, rank=rank, world_size=world_size) for rank in (0, 1))
