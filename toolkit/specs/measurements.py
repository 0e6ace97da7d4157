"""What a machine was measured to do, where catalogs only know its datasheet: written by `toolkit calibrate`."""

from typing import Literal

from pydantic import Field

from toolkit.specs.base import Spec
from toolkit.specs.workload import Precision

Collective = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "p2p"]


class MatmulRate(Spec):
    """One matrix product (m x k) by (k x n) on one rank, while every other rank of the machine computes too."""

    m: int = Field(gt=0)
    """Rows: tokens."""
    n: int = Field(gt=0)
    """Outputs of the layer."""
    k: int = Field(gt=0)
    """Inputs of the layer."""
    precision: Precision
    """Type of both factors."""
    flops_per_second: float = Field(gt=0)
    """2 m n k over the measured seconds."""


class CollectiveTime(Spec):
    """One collective operation between ranks."""

    kind: Collective
    """Which operation."""
    num_ranks: int = Field(gt=1)
    """Size of the group."""
    num_nodes: int = Field(default=1, gt=0)
    """Machines that the group spans."""
    num_bytes: int = Field(gt=0)
    """Size of the whole tensor: the input of all_reduce, the output of all_gather, the input of reduce_scatter."""
    seconds: float = Field(gt=0)
    """Median time of one operation."""


class AttentionRate(Spec):
    """Causal attention on one rank, 4 x seq_len FLOPs per token and query channel, the masked half counted."""

    seq_len: int = Field(gt=0)
    """Tokens of a sequence."""
    head_dim: int = Field(gt=0)
    """Width of a head."""
    precision: Precision
    """Type of queries, keys and values."""
    forward: float = Field(gt=0)
    """FLOP/s of the forward pass."""
    backward: float = Field(gt=0)
    """FLOP/s of the backward pass, counted as 2.5 times as many."""


class SizeRate(Spec):
    """What a rank reaches on tensors of one size."""

    num_bytes: int = Field(gt=0)
    """Size of the tensor."""
    bytes_per_second: float = Field(gt=0)
    """Bytes/s; what is counted, each quantity says."""


class Measurements(Spec):
    """Rates of one machine."""

    matmuls: tuple[MatmulRate, ...] = ()
    """Matrix products by shape."""
    collectives: tuple[CollectiveTime, ...] = ()
    """Collectives by kind, size and group."""
    memory_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that an elementwise operation reads and writes on one rank, every rank busy."""
    attention: tuple[AttentionRate, ...] = ()
    """Attention kernels by shape; processors only: there they reach neither the peak nor the rate of products."""
    elementwise: tuple[SizeRate, ...] = ()
    """Bytes read and written per second by size of the tensor that is made, averaged over the operations of a decoder
    layer; processors only. From the size on at which the allocator maps memory afresh the rate falls."""
    loss: tuple[SizeRate, ...] = ()
    """Bytes of logits per second that a cross entropy goes through, forward and backward; processors only."""
    op_seconds: float | None = Field(default=None, gt=0)
    """Seconds that the smallest operation of an eager framework takes, forward and backward averaged."""
    adam_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s of the fused Adam step on the host, 28 bytes per parameter, over all ranks of the machine."""
    host_to_device: float | None = Field(default=None, gt=0)
    """Bytes/s from pinned host memory to one device."""
    device_to_host: float | None = Field(default=None, gt=0)
    """Bytes/s from one device to pinned host memory."""
    disk_read: float | None = Field(default=None, gt=0)
    """Bytes/s read from the disk of the working folder."""
    disk_write: float | None = Field(default=None, gt=0)
    """Bytes/s written and flushed to that disk."""
    made_with: str
    """Versions and hardware of the measurement."""
