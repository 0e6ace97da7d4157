"""The lessons' formulas and gradients, against other ways to the same numbers; no processes."""

import cmath
import math

import pytest
import torch

from toolkit.lessons import accumulation, least_squares, schedules, two_layers
from toolkit.lessons.collectives import ring_all_reduce
from toolkit.lessons.parameter_server import largest_stable_rate
from toolkit.lessons.shown import show
from toolkit.lessons.wire import Wire


def test_the_written_out_gradient_is_torchs() -> None:
    problem = two_layers.make_problem()
    weights = [w.clone().requires_grad_() for w in problem.weights]
    loss = (torch.tanh(problem.x @ weights[0]) @ weights[1] - problem.y).square().mean()
    expected = torch.autograd.grad(loss, weights)
    found, gradients = two_layers.loss_and_gradients(problem.x, problem.y, problem.weights, count=problem.y.numel())
    assert float(found) == pytest.approx(loss.item())
    assert two_layers.largest_difference(gradients, list(expected)) < 1e-7


def test_the_gradient_of_tokens_is_torchs() -> None:
    tokens = accumulation.make_tokens()[0][0][0]
    w = torch.randn(8, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(tokens.x @ w, tokens.labels, reduction="sum")
    found, gradient = accumulation.summed(tokens, w.detach())
    assert float(found) == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, w)[0])


def test_the_optimum_and_the_curvature() -> None:
    shard = least_squares.together(least_squares.make_shards(3, drift=1.0))
    best = least_squares.optimum(shard)
    assert float(shard.gradient(best).abs().max()) < 1e-5
    # Along the steepest direction the gradient grows by the curvature.
    direction = torch.linalg.eigh(shard.x.T @ shard.x / len(shard.y)).eigenvectors[:, -1]
    change = shard.gradient(best + direction) - shard.gradient(best)
    assert float(change.norm()) == pytest.approx(least_squares.curvature(shard), rel=1e-4)
    torch.testing.assert_close(shard.gradient(torch.stack([best, direction]))[1], shard.gradient(direction))


@pytest.mark.parametrize("delay", [0, 1, 2, 4, 8, 16])
def test_the_border_of_old_gradients(delay: int) -> None:
    def largest_root(rate: float) -> float:
        # z^(delay+1) - z^delay + rate = 0, as the eigenvalues of its companion matrix.
        companion = torch.diag(torch.ones(delay, dtype=torch.float64), -1)
        companion[0, 0] = 1.0
        companion[0, -1] -= rate
        return float(torch.linalg.eigvals(companion).abs().max())

    border = largest_stable_rate(1.0, delay)
    assert largest_root(border) == pytest.approx(1.0, abs=1e-9)
    assert largest_root(0.99 * border) < 1 < largest_root(1.01 * border)
    z = cmath.exp(1j * math.pi / (2 * delay + 1))
    assert abs(z ** (delay + 1) - z**delay + border) < 1e-12


@pytest.mark.parametrize("schedule", list(schedules.SCHEDULES))
@pytest.mark.parametrize(("num_stages", "num_micro"), [(1, 3), (2, 1), (4, 4), (4, 8), (4, 16), (3, 7)])
def test_the_bubble_of_a_schedule_is_the_formulas(schedule: str, num_stages: int, num_micro: int) -> None:
    actions = [schedules.SCHEDULES[schedule](stage, num_stages, num_micro) for stage in range(num_stages)]
    done: dict[tuple[int, str, int], int] = {}
    spans: list[list[schedules.Span]] = [[] for _ in actions]
    while any(actions):
        before = len(done)
        for stage, left in enumerate(actions):
            if not left:
                continue
            direction, i = left[0]
            neighbour = stage - 1 if direction == "forward" else stage + 1
            at_the_end = neighbour in (-1, num_stages)
            needed = (stage, "forward", i) if at_the_end and direction == "backward" else (neighbour, direction, i)
            if not (at_the_end and direction == "forward") and needed not in done:
                continue
            begin = max([done.get(needed, 0), *(int(span.end) for span in spans[stage][-1:])])
            done[stage, direction, i] = begin + (1 if direction == "forward" else 2)
            spans[stage].append(schedules.Span(direction, i, begin, done[stage, direction, i]))
            left.pop(0)
        assert len(done) > before, "the stages wait for each other"
    assert len(done) == 2 * num_stages * num_micro
    assert schedules.idle_part(spans) == pytest.approx(schedules.predicted_bubble(num_stages, num_micro))


def test_one_rank_has_nothing_to_say() -> None:
    wire, x = Wire(0, 1), torch.arange(6.0).view(2, 3)
    assert torch.equal(ring_all_reduce(wire, x), x)
    assert wire.sent_bytes == 0


def test_what_is_shown_is_what_runs() -> None:
    shown = show(ring_all_reduce, two_layers.Problem)
    assert "chunks = list(x.flatten()" in repr(shown)
    assert "class Problem" in repr(shown)
    assert shown._repr_markdown_().startswith("```python\ndef ring_all_reduce(")
    assert shown._repr_markdown_().endswith("[toolkit/lessons/collectives.py](../toolkit/lessons/collectives.py)")
