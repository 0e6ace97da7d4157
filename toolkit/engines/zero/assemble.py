"""The model as this rank keeps it: read part by part, divided by tensor parallelism, partitioned under ZeRO-3."""

from typing import Any

import torch
import torch.distributed as dist
from deepspeed import zero
from deepspeed.utils import groups

from toolkit.engines.common.sums import own_group
from toolkit.engines.ds.config import DsConfig
from toolkit.engines.ds.heap import give_back_freed_memory
from toolkit.engines.ds.tensor import TensorCuts
from toolkit.models.ulysses import divide_attention
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan


def assemble(model: UnloadedModel, config: DsConfig, *, plan: Plan) -> Any:
    """Read the weights that this rank keeps; no more than one part of the model is ever whole in memory.

    Args:
        model: with its weights on disk.
        config: says into how many parts the layers are cut, and whether ZeRO partitions the weights.
        plan: says how many ranks share a sequence.

    Returns:
        The `transformers` or peft model, for `deepspeed.initialize`.
    """
    cuts = None
    if config.tp > 1:
        # What deepspeed.initialize does first with autotp_size; it finds its groups made and the model cut.
        groups._init_tp_mesh_device(config.tp)
        cuts = TensorCuts(model.base, groups.get_tensor_model_parallel_group(), vocab=config.vocab_parallel)
    partition = _Partitioned(config) if config.zero_stage == 3 else None
    for part in model.parts():
        model.fill(part)
        if cuts is not None:
            cuts.cut(part)
        if partition is not None:
            partition(part)
    if cuts is not None:
        model.module.ds_autotp_parsed = True
    if (sp := plan.strategy.layout.sp) > 1:
        divide_attention(model.base, _sequence_group(sp, config.tp), seq_len=plan.workload.seq_len)
    return model.module


def _sequence_group(sp: int, tp: int) -> dist.ProcessGroup:
    """The ranks that share this rank's sequences: tp apart, as tensor-parallel ranks are neighbours."""
    firsts = range(0, dist.get_world_size(), sp * tp)
    return own_group([list(range(first + offset, first + sp * tp, tp)) for first in firsts for offset in range(tp)])


class _Partitioned:
    """Leaves of each part only this rank's share of every weight (ZeRO-3)."""

    def __init__(self, config: DsConfig) -> None:
        self._content = config.content
        self._group = groups.get_data_parallel_group() if config.tp > 1 else None
        self._swapper: Any = None

    def __call__(self, part: torch.nn.Module) -> None:
        done = zero.Init(
            module=part,
            config_dict_or_path=self._content,
            data_parallel_group=self._group,
            # It would make one for every part, and refuse the second.
            zero_param_parallel_group=groups._get_zero_param_intra_parallel_group(),
            # One for all: it owns the files and buffers of weights that live on a disk.
            param_swapper=self._swapper,
        )
        self._swapper = done.param_swapper
        # The whole weights are gone, this rank's shares lie in between: without it a rank's resident size stays at 0.69
        # of what one process takes (1.1e9 weights in fp32, two ranks), with it at 0.60.
        give_back_freed_memory()
