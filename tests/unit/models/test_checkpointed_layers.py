"""Which layers are computed again, and where their inputs wait."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.autograd.graph import save_on_cpu

from ranks.tiny import write_model
from toolkit.models.pretrained import checkpoint_activations, load_pretrained
from toolkit.specs.model import ModelSpec


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize(("every", "computed_again"), [(1, {0, 1, 2, 3, 4}), (2, {0, 2, 4}), (3, {0, 3})])
def test_every_kth(tmp_path: Path, every: int, computed_again: set[int], adapters: bool) -> None:
    folder = write_model(tmp_path / "model", num_hidden_layers=5)
    unloaded = load_pretrained(str(folder), ModelSpec.resolve(folder), precision="fp32")
    checkpoint_activations(unloaded.module, adapters=adapters, every=every, to_host=True)
    model = unloaded.load().train()
    model.enable_input_require_grads()
    runs = [0] * 5

    def count(number: int, *_: object) -> None:
        runs[number] += 1

    for number, layer in enumerate(model.model.layers):
        # Recomputing stops early, before the end of the layer.
        layer.input_layernorm.register_forward_hook(
            lambda *_, number=number: runs.__setitem__(number, runs[number] + 1)
        )
    with mock.patch("toolkit.models.pretrained.save_on_cpu", side_effect=save_on_cpu) as saved:
        model(input_ids=torch.arange(3, 11)[None]).logits.sum().backward()
    assert {number for number, count in enumerate(runs) if count == 2} == computed_again
    assert [call.kwargs for call in saved.call_args_list] == [{"pin_memory": False}] * len(computed_again)
