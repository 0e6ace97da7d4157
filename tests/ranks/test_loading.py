"""No rank ever holds more of the weights than its share and the part that it is about to divide."""

from pathlib import Path
from typing import Any

import pytest

from procs import run_ranks
from ranks.loading import peak_of_loading
from ranks.runs import write_run
from ranks.tiny import write_model
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks

VOCABULARY, HIDDEN, LAYERS = 16_000, 512, 12
SLACK = 48 * 2**20
"""A chunk of 16 MiB that is being copied, buffers of the collectives, and what the allocator keeps back."""


@pytest.fixture(scope="module")
def weighty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """198 MiB in fp32: embedding and head 31 MiB each, a layer 11 MiB."""
    return write_model(
        tmp_path_factory.mktemp("models") / "weighty",
        spread=0.02,
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=1408,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
    )


@pytest.mark.parametrize(
    ("choices", "shares"),
    [
        ({"zero_stage": 3}, 2),
        ({"zero_stage": 1, "tp": 2}, 2),
        ({"zero_stage": 3, "tp": 2, "cluster": "4xcpu"}, 4),
        ({"pp": 2, "stages": (6, 6)}, 2),
        ({"pp": 2, "tp": 2, "stages": (6, 6), "cluster": "4xcpu"}, 4),
    ],
    ids=str,
)
def test_a_rank_grows_by_its_share(tmp_path: Path, weighty: Path, choices: dict[str, Any], shares: int) -> None:
    run = write_run(tmp_path / "run", weighty, **choices)
    plan = Plan.load(RunFolder(run).plan)
    share, largest = 4 * plan.model.num_params / shares, 4 * VOCABULARY * HIDDEN
    for rank, grown in enumerate(run_ranks(peak_of_loading, plan.world_size, run)):
        assert 0.8 * share < grown < share + largest + SLACK, (rank, grown / 2**20)


def test_one_rank_alone_holds_everything_once(tmp_path: Path, weighty: Path) -> None:
    run = write_run(tmp_path / "run", weighty, cluster="1xcpu", zero_stage=1)
    whole = 4 * Plan.load(RunFolder(run).plan).model.num_params
    (grown,) = run_ranks(peak_of_loading, 1, run)
    assert 0.9 * whole < grown < whole + SLACK
