"""Optimizer steps without any engine: transformers, torch and one process, the documents of a batch one by one."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.nn.functional import cross_entropy

from toolkit.data.encode import IGNORED
from toolkit.engines import parameter_groups
from toolkit.models.build import build_model
from toolkit.planner.plan import Plan
from toolkit.preflight.documents import documents
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.recipe import Recipe

Batch = Mapping[str, torch.Tensor]


def plain_steps(
    plan: Plan, recipe: Recipe, steps: Sequence[Sequence[Batch]], *, rates: Sequence[float], max_norm: float
) -> Iterator[tuple[float, float]]:
    """Loss and gradient norm of each step, in fp32 from the weights as they were loaded.

    Of optimizers that torch lacks, and of other kinds of clipping than by the norm, only the first step's: what it does
    to the weights is not done here.
    """
    work = plan.workload.model_copy(update={"attention": "sdpa", "loss": "full"})
    model = build_model(plan.model_copy(update={"workload": work}), recipe).load().float().train()
    optimizer = _optimizer(model, recipe)
    named = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for batches, rate in zip(steps, rates, strict=True):
        loss = _backward(model, batches)
        norm = torch.nn.utils.clip_grad_norm_(named, max_norm or float("inf"))
        yield loss, float(norm)
        if optimizer is None:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate * group["learning_rate_ratio"]
        optimizer.step()
        optimizer.zero_grad()


def _backward(model: torch.nn.Module, batches: Sequence[Batch]) -> float:
    """Gradients of the mean over all labels of the step; the mean."""
    labels = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        for row, start, stop in documents(batch):
            wanted = batch["labels"][row, start + 1 : stop]
            if bool((wanted != IGNORED).any()):
                logits = model(input_ids=batch["input_ids"][row, None, start:stop], use_cache=False).logits[0, :-1]
                share = cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum") / labels
                share.backward()  # type: ignore[no-untyped-call]
                total += float(share.detach())
    return total


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer | None:
    name, config = recipe.workload.optimizer, recipe.optimizer
    if recipe.clipping.kind != "norm" or name not in ("adamw", "sgd"):
        return None
    groups = parameter_groups(model.named_parameters(), config, name)
    return _adamw(groups, config) if name == "adamw" else torch.optim.SGD(groups, momentum=config.momentum)


def _adamw(groups: list[dict[str, object]], config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)
