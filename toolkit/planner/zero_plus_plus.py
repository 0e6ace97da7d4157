"""ZeRO++ (arXiv 2306.10209): what DeepSpeed 0.19.8 has of it, and where it does what it says.

Read in runtime/zero/stage3.py and partition_parameters.py, runtime/comm/coalesced_collectives.py and the kernels in
csrc/quantization.
"""

import math
from collections.abc import Iterator

from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload
from toolkit.specs.zero_plus_plus import ZeroPlusPlus


def zero_plus_plus_faults(
    asked: ZeroPlusPlus,
    model: ModelSpec,
    cluster: ClusterSpec,
    *,
    workload: Workload,
    strategy: Strategy,
    zero_stage: int,
) -> Iterator[str]:
    """What is against it, in words; `zero_stage` is that of the run, which may differ from the strategy's."""
    if not (keys := asked.keys):
        return
    given, world = " and ".join(keys), cluster.world_size
    if zero_stage != 3:
        yield f"{given}: ZeRO-3 gathers weights, zero_stage={zero_stage} does not; use zero_stage=3, or leave it out"
    if cluster.device.kind != "cuda":
        yield f"{given}: DeepSpeed's kernels for it are CUDA's, there is {cluster.device.name}; leave it out"
    if strategy.layout.dp != world:
        # groups._create_zero_param_parallel_group and all_to_all_quant_reduce count all ranks as replicas.
        yield f"{given} is between replicas of one rank, the plan has {strategy.words}; plan again with --tp 1 --sp 1"
    if strategy.offload == "all":
        yield f"{given}: weights in host memory are copied from there, not gathered; use offload=optimizer or none"
    if workload.method != "full":
        # CUDAQuantizer asserts that a rank's share of every tensor can be divided by 8.
        yield f"{given}: a rank's share of an adapter is too small for the kernels' groups of 8; use method=full"
    if asked.hpz_partition_size > 1 and world % asked.hpz_partition_size:
        yield f"zero_hpz_partition_size={asked.hpz_partition_size} does not divide {world} ranks"
    if asked.quantized_weights:
        yield from _weight_faults(model, world, workload)
    if asked.quantized_gradients:
        yield from _gradient_faults(cluster, workload)


def _weight_faults(model: ModelSpec, world: int, workload: Workload) -> Iterator[str]:
    if workload.weights == "fp32":
        # CUDAQuantizer rounds to fp16 first; init_autocast_params refuses it with an AssertionError.
        yield "zero_quantized_weights: fp32 weights would be rounded twice; use precision=bf16 with mixed=master"
    odd = [name for name, shape in model.weight_shapes.items() if math.ceil(math.prod(shape) / world) % 8]
    if odd:
        yield f"zero_quantized_weights: {odd[0]} over {world} ranks is not in groups of 8; use another number of ranks"


def _gradient_faults(cluster: ClusterSpec, workload: Workload) -> Iterator[str]:
    if workload.precision != "fp16":
        # ds_swizzle_quant takes the memory of any type as __half: gradients in bf16 would be other numbers.
        yield f"zero_quantized_gradients: the kernel reads fp16 only, precision is {workload.precision}; use fp16"
    if cluster.num_nodes == 1:
        # __avg_scatter_grads takes the plain way there.
        yield "zero_quantized_gradients: DeepSpeed does it between nodes, there is one; leave it out"
