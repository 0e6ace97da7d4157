"""What a strategy is predicted to take: bytes by term, seconds by cause, each with its uncertainty."""

import math

from toolkit.specs.base import Spec

MEMORY_TERMS = {
    "weights_bytes": "weights",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer states",
    "activations_bytes": "activations",
    "logits_bytes": "logits",
    "buffers_bytes": "buffers",
    "fragmentation_bytes": "fragmentation",
    "context_bytes": "context",
}
"""Device terms of a MemoryEstimate and their names."""


class MemoryEstimate(Spec):
    """Bytes on the fullest device at the instant of the step when it is fullest, term by term; they sum to the total.

    Three readings of the same instant, for three tools that read it: `allocated_bytes` (torch's max_memory_allocated),
    `reserved_bytes` (max_memory_reserved, with what the caching allocator cannot reuse) and `total_bytes` (the driver's
    "used", with the context).
    """

    weights_bytes: int
    """Weights in compute precision held by the rank."""
    gradients_bytes: int
    """Gradients held by the rank at that instant."""
    optimizer_bytes: int
    """fp32 master weights and Adam moments held on the device, and what the optimizer step adds."""
    activations_bytes: int
    """Tensors kept for the backward pass by all layers of all micro-batches in flight, and the layer at work."""
    logits_bytes: int
    """Logits, their fp32 copies and gradient of one micro-batch; on the last pipeline stage only."""
    buffers_bytes: int
    """Communication buckets and weights gathered by ZeRO-3."""
    fragmentation_bytes: int
    """Reserved by the caching allocator and not allocated."""
    context_bytes: int
    """Device context, kernels and communicators."""
    host_bytes: int = 0
    """Host memory per node taken by offloaded states; not part of the device total."""
    disk_bytes: int = 0
    """Local disk per node taken by states offloaded to NVMe."""
    stage: int = 0
    """Pipeline stage of the device."""
    instant: str = ""
    """When in the step: 'last forward', 'first backward', 'optimizer step', ..."""
    spread: float = 0.1
    """Standard deviation of the logarithm of measured over predicted bytes on runs of this kind."""

    @property
    def allocated_bytes(self) -> int:
        """What live tensors take."""
        return self.reserved_bytes - self.fragmentation_bytes

    @property
    def reserved_bytes(self) -> int:
        """What the caching allocator holds."""
        return self.total_bytes - self.context_bytes

    @property
    def total_bytes(self) -> int:
        """Sum of the device terms: what the driver shows as used."""
        return sum(int(getattr(self, term)) for term in MEMORY_TERMS)

    def largest_terms(self) -> list[tuple[str, int]]:
        """Names and bytes of the device terms, largest first."""
        terms = [(words, int(getattr(self, name))) for name, words in MEMORY_TERMS.items()]
        return sorted(terms, key=lambda term: -term[1])

    def band(self, num_bytes: float) -> tuple[float, float]:
        """Nine of ten runs of this kind stay inside: bytes x and / exp(1.645 spread)."""
        return nine_of_ten(num_bytes, spread=self.spread)

    def oom_probability(self, capacity: float) -> float:
        """Probability that the device total exceeds `capacity` bytes: a lognormal around the prediction."""
        return oom_probability(self.total_bytes, capacity, spread=self.spread)


def nine_of_ten(predicted: float, *, spread: float) -> tuple[float, float]:
    """Smallest and largest value that nine of ten measurements keep to: a lognormal around the prediction.

    1.645 standard deviations of a normal distribution hold nine of ten draws.
    """
    factor = math.exp(1.645 * spread)
    return predicted / factor, predicted * factor


def oom_probability(total_bytes: float, capacity: float, *, spread: float) -> float:
    """`MemoryEstimate.oom_probability` from plain numbers."""
    return 0.5 * math.erfc(math.log(capacity / total_bytes) / spread / math.sqrt(2))


TIME_TERMS = {
    "compute_seconds": "compute",
    "recompute_seconds": "recompute",
    "tp_seconds": "tensor parallel",
    "cp_seconds": "sequence, context parallel",
    "pp_seconds": "stage to stage",
    "bubble_seconds": "pipeline bubble",
    "dp_seconds": "data parallel, ZeRO",
    "optimizer_seconds": "optimizer",
    "offload_seconds": "offload",
    "overhead_seconds": "overhead",
}
"""Causes of a TimeEstimate and their names."""


class TimeEstimate(Spec):
    """Seconds of one optimizer step by cause, as seen on the slowest rank: only what nothing else hides."""

    compute_seconds: float
    """Forward and backward arithmetic of all micro-batches."""
    recompute_seconds: float = 0.0
    """Forward passes run again by activation checkpointing."""
    tp_seconds: float = 0.0
    """Collectives inside tensor-parallel groups."""
    cp_seconds: float = 0.0
    """Exchanges inside sequence- and context-parallel groups."""
    pp_seconds: float = 0.0
    """Activations and gradients sent between pipeline stages."""
    bubble_seconds: float = 0.0
    """Waiting for the first and last micro-batch to pass all stages, and for the slowest stage."""
    dp_seconds: float = 0.0
    """Gradient reductions and ZeRO's gathers of weights that no computation hides."""
    optimizer_seconds: float = 0.0
    """The optimizer's arithmetic, on the device or on the host."""
    offload_seconds: float = 0.0
    """Transfers to and from host memory or disk that nothing hides."""
    overhead_seconds: float = 0.0
    """Kernel launches, the framework's own work, data loading."""
    spread: float = 0.15
    """Standard deviation of the logarithm of measured over predicted seconds on runs of this kind."""

    @property
    def step_seconds(self) -> float:
        """Sum of the causes."""
        return sum(float(getattr(self, term)) for term in TIME_TERMS)
