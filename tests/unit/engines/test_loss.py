"""The loss of supervised tokens alone is that of all logits with the others ignored, gradients too."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.engines.common.labels import IGNORED, next_tokens, supervised_tokens
from toolkit.engines.ds.loss import loss_sum, only_rows

ROWS, SEQ, VOCAB = 3, 16, 61
KINDS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "adapted": {"target_modules": ["q_proj", "lm_head"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def model_of(kind: str, *, tied: bool = False) -> tuple[Any, Any]:
    """A model as engines take it, and the `transformers` one inside."""
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **shape, tie_word_embeddings=tied, initializer_range=0.3))
    if (settings := KINDS[kind]) is None:
        return model, model
    adapted = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, **settings))
    return adapted, adapted.get_base_model()


def batch_of(supervised: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and what the last tokens must predict; the others predict nothing that counts."""
    ids = torch.randint(VOCAB, (ROWS, SEQ), generator=torch.Generator().manual_seed(1))
    wanted = next_tokens(ids)
    counting = (wanted != IGNORED).flatten().nonzero()[:, 0]
    wanted.view(-1)[counting[: len(counting) - supervised]] = IGNORED
    return ids, wanted


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    return found


@pytest.mark.parametrize("supervised", [0, 1, 20, ROWS * (SEQ - 1)])
@pytest.mark.parametrize(("kind", "tied"), [("plain", False), ("plain", True), ("adapted", False), ("saved", False)])
def test_equals_that_of_all_logits(kind: str, tied: bool, supervised: int) -> None:
    model, base = model_of(kind, tied=tied)
    ids, wanted = batch_of(supervised)
    expected = cross_entropy(model(ids).logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")
    expected.backward()
    of_all = gradients(model)

    rows, targets = supervised_tokens(wanted)
    with only_rows(base.lm_head, rows):
        logits = model(ids).logits
    assert logits.shape == (supervised, VOCAB)
    loss = loss_sum(logits, targets, base.lm_head)
    loss.backward()
    of_few = gradients(model)

    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert of_few.keys() == of_all.keys()
    for name, gradient in of_few.items():
        # There, though zero, where nothing counts: ranks exchange gradients of the same weights.
        assert gradient is not None, name
        torch.testing.assert_close(gradient, of_all[name], rtol=1e-5, atol=1e-5)
    assert model(ids).logits.shape == (ROWS, SEQ, VOCAB)


def test_what_does_not_count_meets_no_weight() -> None:
    head, (_, wanted) = torch.nn.Linear(8, VOCAB, bias=False), batch_of(10)
    hidden = torch.randn(ROWS, SEQ, 8)
    rows, targets = supervised_tokens(wanted)
    hidden[wanted == IGNORED] = torch.nan
    with only_rows(head, rows):
        loss = loss_sum(head(hidden), targets, head)
    loss.backward()
    assert loss.isfinite()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()


def test_all_logits_are_back_after_a_fault() -> None:
    head = torch.nn.Linear(8, VOCAB)
    with pytest.raises(ZeroDivisionError), only_rows(head, torch.tensor([1])):
        raise ZeroDivisionError
    assert head(torch.zeros(ROWS, SEQ, 8)).shape == (ROWS, SEQ, VOCAB)
