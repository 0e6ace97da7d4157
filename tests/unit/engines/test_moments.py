"""8-bit states survive being read out in fp32 and put back, byte for byte."""

import bitsandbytes
import pytest
import torch

from toolkit.engines.ds.moments import QuantisedMoments


@pytest.mark.parametrize("size", [8192, 9001])
def test_the_same_bytes_come_back(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(size, generator=generator)
    one, other = torch.nn.Parameter(weights.clone()), torch.nn.Parameter(weights.clone())
    steps = [torch.randn(size, generator=generator) * 10.0**-step for step in range(6)]

    def train(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()

    kept = bitsandbytes.optim.AdamW8bit([one], lr=1e-2)
    train(one, kept, steps[:3])
    states = {name: tensor.clone() for name, tensor in QuantisedMoments(kept).of(one).items()}
    other.data.copy_(one.data)
    fresh = bitsandbytes.optim.AdamW8bit([other], lr=1e-2)
    moments = QuantisedMoments(fresh)
    moments.begin(other, 3)
    moments.load(other, states)
    for name, held in kept.state[one].items():
        assert torch.equal(torch.as_tensor(held), torch.as_tensor(fresh.state[other][name])), name
    train(one, kept, steps[3:])
    train(other, fresh, steps[3:])
    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [4095, 4096, 8192])
@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit"])
def test_the_type_that_is_told_is_the_type_that_is_made(name: str, size: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(size))
    optimizer = getattr(bitsandbytes.optim, name)([weight], lr=0.0)
    told = QuantisedMoments(optimizer).dtype_of(weight)
    weight.grad = torch.ones(size)
    optimizer.step()
    assert {optimizer.state[weight][state].dtype for state in ("state1", "state2")} == {told}


def test_numbers_without_their_scales_are_rounded_anew() -> None:
    """As after a change of layout, where blocks begin elsewhere."""
    weight = torch.nn.Parameter(torch.zeros(8192))
    moments = QuantisedMoments(bitsandbytes.optim.AdamW8bit([weight]))
    empty = moments.begin(weight, 1)
    values = torch.linspace(-1, 1, 8192)
    moments.load(weight, {**empty, "exp_avg": values, "exp_avg_sq": values.square()})
    back = moments.of(weight)
    assert (back["exp_avg"] - values).abs().max() < 0.02
    assert (back["exp_avg_sq"] - values.square()).abs().max() < 0.02
