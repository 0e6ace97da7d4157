"""One accelerator: what it computes, holds and reaches."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from toolkit.errors import SpecError
from toolkit.specs.base import Spec
from toolkit.units import parse_bytes

Bytes = Annotated[
    int, BeforeValidator(lambda given: parse_bytes(given) if isinstance(given, str) else given), Field(gt=0)
]
"""A size in bytes; a file may write it as "80 GiB"."""

MatmulPrecision = Literal["fp32", "bf16", "fp16", "fp8", "fp4"]
"""Types of the factors of a matrix product."""

Link = Literal["nvlink", "xgmi", "pcie", "memory"]
"""What connects the devices of a node; AMD calls xGMI Infinity Fabric."""


class Device(Spec):
    """One accelerator: a GPU, or a CPU process of a rehearsal."""

    name: str
    """Name in the catalog, or the file's own."""
    kind: Literal["cuda", "rocm", "cpu"]
    """What runs the kernels: an NVIDIA GPU, an AMD GPU (torch calls it cuda too), or a processor."""
    memory_bytes: Bytes
    """Memory that a process can use, in bytes; less than the size in the product's name."""
    bf16_flops: float = Field(gt=0)
    """Peak of bf16 matrix multiplication, FLOP/s, dense; the fp32 rate where bf16 is not supported."""
    fp16_flops: float = Field(gt=0)
    """Peak of fp16 matrix multiplication, FLOP/s, dense with fp32 accumulation."""
    fp32_flops: float = Field(gt=0)
    """Peak of fp32 arithmetic without tensor cores, FLOP/s; TF32 is coarser and not counted."""
    fp8_flops: float | None = Field(default=None, gt=0)
    """Peak of fp8 matrix multiplication, FLOP/s, dense with fp32 accumulation; none where it does not run."""
    fp4_flops: float | None = Field(default=None, gt=0)
    """Peak of fp4 matrix multiplication, FLOP/s, dense; none where it does not run."""
    supports_bf16: bool
    """True where bf16 runs: GPUs since Ampere, and CPUs."""
    memory_bandwidth: float = Field(gt=0)
    """Memory traffic, bytes/s."""
    intra_node_bandwidth: float = Field(gt=0)
    """To the other devices of the node (NVLink, else PCIe), bytes/s per device in one direction."""
    link: Link = "pcie"
    """What connects the devices of a node: nvlink, xgmi, pcie, or the main memory of processors."""
    host_bandwidth: float = Field(default=31.5e9, gt=0)
    """To host memory (PCIe, NVLink-C2C), bytes/s per device in one direction; PCIe 4.0 x16 where not given."""
    source: str
    """Where the numbers are published."""

    def peak_flops(self, precision: MatmulPrecision) -> float:
        """Dense matrix-multiplication peak of a precision, FLOP/s.

        Raises:
            SpecError: fp8 or fp4 on a device that does not have it.
        """
        rates: dict[MatmulPrecision, float | None] = {
            "fp32": self.fp32_flops,
            "bf16": self.bf16_flops,
            "fp16": self.fp16_flops,
            "fp8": self.fp8_flops,
            "fp4": self.fp4_flops,
        }
        rate = rates[precision]
        if rate is None:
            known = ", ".join(name for name, flops in rates.items() if flops)
            raise SpecError(f"{self.name} has no {precision} matrix products; use one of {known}")
        return rate
