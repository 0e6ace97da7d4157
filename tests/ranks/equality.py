"""Equal within a tolerance, at every step."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from procs import run_ranks
from ranks.reference import Step
from ranks.runs import Trained, train
from toolkit.engines.base import StepResult
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder


def trained(folder: Path, *, timeout_s: float = 120.0) -> Trained:
    """Train a run on its ranks, which must tell the same; the first one's view, which has the weights."""
    world_size = Plan.load(RunFolder(folder).plan).world_size
    first, *others = run_ranks(train, world_size, folder, timeout_s=timeout_s)
    assert all(other.steps == first.steps for other in others)
    return first


def assert_equal(results: Sequence[StepResult], steps: Sequence[Step], *, loss: float, norm: float) -> None:
    """Compare step by step.

    Args:
        results: of several ranks.
        steps: of one process.
        loss: largest difference, in nats.
        norm: largest difference of the gradient norms, as a part of the norm.
    """
    assert len(results) == len(steps)
    wrong = []
    for number, (ours, one) in enumerate(zip(results, steps, strict=True)):
        assert ours.supervised_tokens == one.supervised_tokens
        clipped_by = abs(ours.clipped_norm / one.clipped_norm - 1)
        assert clipped_by <= 2 * norm + 1e-5, f"step {number}: clipped norm off by {clipped_by:.1e}"
        by, norm_by = abs(ours.loss - one.loss), abs(ours.grad_norm / one.grad_norm - 1)
        # Not `>`: a NaN must not pass.
        if not (by <= loss and norm_by <= norm):
            wrong.append(
                f"step {number}: loss {ours.loss:.6f}, off by {by:.1e}; norm {ours.grad_norm:.6f}, {norm_by:.1e}"
            )
    assert not wrong, "\n" + "\n".join(wrong)


def assert_same_weights(weights: Mapping[str, torch.Tensor], model: Any, *, within: float) -> None:
    """Compare the weights that a run left with those of one process, every number of them."""
    expected = dict(_own_names(model))
    assert weights.keys() == expected.keys()
    wrong = {name: float((weights[name] - parameter.detach()).abs().max()) for name, parameter in expected.items()}
    assert all(by <= within for by in wrong.values()), {name: by for name, by in wrong.items() if not by <= within}


def _own_names(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Names of a model's weights; what peft trains a copy of has its place and its name with us."""
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            yield name.replace(".modules_to_save.default.", "."), parameter
