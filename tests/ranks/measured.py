"""What a rank measures when other programs have used up the time."""

import time

import torch
import torch.distributed as dist

from toolkit.calibration.across import Own, middle_mean, seconds_across
from toolkit.calibration.collectives import CollectiveTimer, groups_inside
from toolkit.calibration.compute import matmul_rates
from toolkit.calibration.ranks import Ranks
from toolkit.specs.measurements import CollectiveTime, MatmulRate


def rates_without_time() -> tuple[list[MatmulRate], list[CollectiveTime]]:
    """Matrix products and collectives with no second to spend on either."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    matmuls = matmul_rates(ranks, "fp32", seconds=0.0, say=_nothing)
    return matmuls, CollectiveTimer(ranks, "fp32", groups_inside(ranks.world_size)).times(seconds=0.0, say=_nothing)


def what_counts_of_a_collective() -> tuple[float, float, float]:
    """Where rank 1 takes 50 ms and rank 0 nothing: of an operation that sends one way, of one to which both come late
    in turns, and where rank 1 is in no group."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    assert dist.group.WORLD is not None, "the ranks have met"
    both, alone = Own(dist.group.WORLD, (0, 1)), dist.new_group([0])
    first = Own(alone, (0,)) if ranks.rank == 0 else None

    def sleeping() -> None:
        time.sleep(0.05 * ranks.rank)

    return (
        middle_mean(seconds_across(ranks, both, sleeping, allowed=0.5, one_way=True)),
        middle_mean(seconds_across(ranks, both, sleeping, allowed=0.5, one_way=False)),
        middle_mean(seconds_across(ranks, first, sleeping, allowed=0.5, one_way=True)),
    )


def _nothing(item: str) -> None:
    """Progress that nobody looks at."""
