"""Where a rank is in Megatron's layout; ranks are numbered tensor-parallel ones first, then cp, dp and pp."""

from dataclasses import dataclass

import torch.distributed as dist
from megatron.core import parallel_state


@dataclass(frozen=True)
class Place:
    """This rank's number in each way to divide, and whom it meets there."""

    tp: int
    """Which part of the layers' matrices."""
    cp: int
    """Which tokens."""
    dp: int
    """Which replica."""
    pp: int
    """Which stage."""
    num_tp: int
    num_cp: int
    num_dp: int
    num_pp: int

    @classmethod
    def here(cls) -> "Place":
        """Once Megatron has its groups."""
        state = parallel_state
        return cls(
            tp=state.get_tensor_model_parallel_rank(),
            cp=state.get_context_parallel_rank(),
            dp=state.get_data_parallel_rank(),
            pp=state.get_pipeline_model_parallel_rank(),
            num_tp=state.get_tensor_model_parallel_world_size(),
            num_cp=state.get_context_parallel_world_size(),
            num_dp=state.get_data_parallel_world_size(),
            num_pp=state.get_pipeline_model_parallel_world_size(),
        )

    @property
    def is_last_stage(self) -> bool:
        """It has the head."""
        return self.pp == self.num_pp - 1

    @property
    def speaks_for_rows(self) -> bool:
        """The other ranks of its replica have the same rows."""
        return self.tp == self.cp == self.pp == 0

    @property
    def speaks_for_weights(self) -> bool:
        """Replicas, and ranks that divide the tokens, hold the same weights."""
        return self.cp == self.dp == 0

    @property
    def tp_group(self) -> dist.ProcessGroup:
        """The ranks that divide this rank's matrices."""
        group: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
        return group

    @property
    def cp_group(self) -> dist.ProcessGroup:
        """The ranks that divide this rank's tokens."""
        group: dist.ProcessGroup = parallel_state.get_context_parallel_group()
        return group

    @property
    def pp_group(self) -> dist.ProcessGroup:
        """The stages of this rank's replica."""
        group: dist.ProcessGroup = parallel_state.get_pipeline_model_parallel_group()
        return group
