"""A chunked loss is the plain one, gradients too, in the part of its memory that the planner counts."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from toolkit.engines.common.labels import IGNORED, supervised_tokens
from toolkit.engines.ds.chunked import loss_for_logits
from toolkit.engines.ds.loss import loss_sum, only_rows
from toolkit.planner.memory.activations import chunked_loss_bytes
from toolkit.planner.resolve import setup_of
from toolkit.planner.strategy import Layout, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload, loss_block
from toolkit.units import MiB

HIDDEN, VOCAB = 24, 301


def head_of(vocab: int, hidden: int, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(hidden, vocab, bias=False, dtype=dtype)


def rows_of(head: torch.nn.Linear, tokens: int, *, supervised: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of hidden states, and wanted tokens of which the last ones count."""
    hidden = 3 * torch.randn(2, tokens // 2, head.in_features, dtype=torch.float32)
    wanted = torch.randint(0, head.out_features, (2, tokens // 2))
    wanted.view(-1)[: tokens - supervised] = IGNORED
    return hidden.to(head.weight.dtype).requires_grad_(), wanted


def losses(
    head: torch.nn.Linear, hidden: torch.Tensor, wanted: torch.Tensor, *, scale: float = 1.0, chunked: bool
) -> list[Any]:
    """Loss, and the gradients of hidden states and head."""
    rows, targets = supervised_tokens(wanted)
    with only_rows(head, rows):
        if chunked:
            with loss_for_logits(head, targets):
                loss = head(hidden)
        else:
            loss = loss_sum(head(hidden), targets, head)
    inputs = [hidden, head.weight] if head.weight.requires_grad else [hidden]
    return [loss.detach(), *torch.autograd.grad(loss * scale, inputs)]


def assert_close(found: list[Any], expected: list[Any], *, within: float) -> None:
    assert len(found) == len(expected)
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).abs().max() <= within * plain.abs().max().clamp(min=1e-30)
        assert ours.dtype == plain.dtype


@pytest.mark.parametrize("columns", [1, 7, 100, 300, VOCAB])
@pytest.mark.parametrize("supervised", [0, 1, 33, 64])
def test_loss_and_gradients_are_the_plain_ones(columns: int, supervised: int) -> None:
    head = head_of(VOCAB, HIDDEN)
    hidden, wanted = rows_of(head, 64, supervised=supervised)
    with mock.patch("toolkit.engines.ds.chunked.loss_block", return_value=columns):
        found = losses(head, hidden, wanted, chunked=True)
    assert_close(found, losses(head, hidden, wanted, chunked=False), within=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    head = head_of(VOCAB, HIDDEN).requires_grad_(False)
    hidden, wanted = rows_of(head, 64, supervised=40)
    assert_close(losses(head, hidden, wanted, chunked=True), losses(head, hidden, wanted, chunked=False), within=1e-5)
    assert head.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_scale_keeps_small_gradients(dtype: torch.dtype) -> None:
    """Of 20,000 logits most have a probability that fp16 does not know; scaled before they are rounded, they count."""
    head = head_of(20_000, HIDDEN, dtype)
    hidden, wanted = rows_of(head, 16, supervised=16)
    scaled = losses(head, hidden, wanted, scale=2.0**12, chunked=True)
    plain = losses(head, hidden, wanted, scale=2.0**12, chunked=False)
    assert_close(scaled, plain, within=4 * torch.finfo(dtype).eps)
    exact_head, exact = head_of(20_000, HIDDEN).to(torch.float32), hidden.detach().float().requires_grad_()
    exact_head.weight.data = head.weight.detach().float()
    of_head = losses(exact_head, exact, wanted, scale=2.0**12, chunked=False)[2]
    rare = of_head.abs().sum(1) < of_head.abs().sum(1).median()
    assert (scaled[2][rare].float() / of_head[rare] - 1).abs().median() < 4 * torch.finfo(dtype).eps


def test_a_loss_that_is_no_number_says_so() -> None:
    head = head_of(VOCAB, HIDDEN)
    hidden, wanted = rows_of(head, 64, supervised=64)
    with torch.no_grad():
        hidden[0, 0, 0] = torch.nan
    assert losses(head, hidden, wanted, chunked=True)[0].isnan()


def test_logits_are_back_after_a_fault() -> None:
    head = head_of(VOCAB, HIDDEN)
    hidden, wanted = rows_of(head, 64, supervised=64)
    with pytest.raises(ZeroDivisionError), loss_for_logits(head, wanted.flatten()):
        raise ZeroDivisionError
    assert head(hidden).shape == (2, 32, VOCAB)


def peak_bytes(*given: Any, **named: Any) -> int:
    """Largest sum of what torch has allocated at once while `losses` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        losses(*given, **named)
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize(
    ("vocab", "hidden", "dtype"),
    [(65_536, 32, torch.float32), (65_536, 32, torch.bfloat16), (20_000, 512, torch.bfloat16)],
)
def test_memory_is_a_part_of_the_plain_ones_and_what_is_predicted(vocab: int, hidden: int, dtype: torch.dtype) -> None:
    tokens = 1024
    head = head_of(vocab, hidden, dtype)
    states, wanted = rows_of(head, tokens, supervised=tokens)
    found = peak_bytes(head, states, wanted, chunked=True)
    model = ModelSpec.resolve("llama-3.2-1b").model_copy(update={"vocab_size": vocab, "hidden_size": hidden})
    work = Workload.model_validate(
        {
            "seq_len": tokens // 2,
            "global_batch": 2,
            "precision": "fp32" if dtype == torch.float32 else "bf16",
            "loss": "chunked",
        }
    )
    strategy = Strategy(layout=Layout(dp=1), zero_stage=0, micro_batch=2, grad_accum=1)
    setup = setup_of(model, ClusterSpec.resolve("1xcpu"), workload=work, strategy=strategy)
    assert found == pytest.approx(chunked_loss_bytes(setup), rel=0.02)
    if vocab == 65_536:
        # 768 MiB of logits, their logarithms and their gradient against 72 to 101 MiB.
        assert peak_bytes(head, states, wanted, chunked=False) > 5 * found > 5 * 64 * MiB


def test_blocks_are_as_wide_as_they_need() -> None:
    assert loss_block(8192, 128_256) == 2048
    assert loss_block(1_000_000, 128_256) == 1024
    assert loss_block(10, 128_256) == loss_block(0, 128_256) == 128_256
