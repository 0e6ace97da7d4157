"""Constants that hold for every framework and device, each with its source; those of one framework are in TimeLaw."""

FITTED = ("MATMUL_BYTES_PER_FLOP", "NETWORK_EFFICIENCY", "NETWORK_DECAY", "EXPOSED")
"""Names of the constants below that were fitted to measured runs (docs/planner-time.md); all others are published."""

MATMUL_BYTES_PER_FLOP = 2.3e-3
"""Traffic of a 16-bit matrix product that its arithmetic does not hide, as memory traffic per FLOP; it grows with the
width of a number. Devices with more FLOPs per byte of bandwidth so reach less of their peak: A100 0.74, H100 0.60, B200
0.61."""
WAVE_ELEMENTS = 128 * 256 * 120
"""Outputs that a device computes at once: tiles of 128 x 256 on 108 (A100) to 148 (B200) multiprocessors."""
WAVE_WASTE = 0.5
"""Waves that a product loses to the last one, which is not full: the mean of a uniform remainder."""
MEMORY_EFFICIENCY = 0.85
"""Part of the memory bandwidth that elementwise kernels reach (BabelStream: 0.88 to 0.92 for copies)."""
ATTENTION_BACKWARD = 2.5
"""Backward over forward FLOPs of flash attention: five products for two (2307.08691, 3.1)."""
SCORE_BYTES = 20.0
"""Bytes moved per attention score in the forward pass where scores are kept: written, scaled and masked, softmax,
dropout with its mask, read (2 + 4 + 4 + 6 + 2, and 2 for the mask; Megatron's fused softmax)."""
FUSED_LOGIT_BYTES = 8.0
"""Bytes moved per logit by a chunked loss: 16-bit logits and their gradient, each written and read (Liger)."""
CHUNKED_LOGIT_BYTES = 70.0
"""Bytes moved per logit by `loss: chunked`, counted in engines/ds/chunked.py: in 16 bits written, read and written in
fp32, twice; then largest, difference, exponential, sum (24); difference, exponential, product, rounding (30)."""
NF4_TRAFFIC = 4.5
"""Bytes moved per weight to dequantise NF4: 0.5 read, 2 written, 2 read by the product (2305.14314)."""
ADAPTER_OPS = 8.0
"""Operations per adapted linear layer: two thin products, a scale and an addition, and their gradients."""
OP_SECONDS = 6.0e-6
"""Host time per operation of an eager framework, where it was not measured: PyTorch launches a kernel in 5 to 10."""

LINK_EFFICIENCY = 0.8
"""Part of a link's bandwidth that large transfers reach: 0.80 to 0.97 in all-reduces of one node (ml-engineering by
stas00, the HF ultra-scale playbook), 0.88 of PCIe 5.0."""
NETWORK_EFFICIENCY = 0.7
"""Part of a network's bandwidth that rings between nodes reach, before the decay below."""
NETWORK_DECAY = 0.37
"""Bus bandwidth over n nodes falls as n to this power; latency makes the rest of the fall that the playbook shows."""
MEASURED_NODES = 64
"""Nodes up to which the playbook measured that fall. It is not carried further: published runs with replicas on 128 and
192 nodes (Llama 3, MegaScale; docs/growth.md) would take up to half as long again as they did."""
TCP_EFFICIENCY = 0.956
"""Part of an Ethernet's bandwidth that is left to TCP's payload: 1,448 of 1,514 bytes of a frame."""
GLOO_PAIR_GATHER = 1.5
"""What gloo's all-gather between two ranks takes over its volume, unless both come at the same moment. Each sends its
part in two halves, and the other's word that it is ready for the second waits behind the first, on the one connection
that there is: three halves follow each other. Measured: 1.32 s for 20 MiB at 100 Mb/s, 0.88 s at its best."""
ALL_REDUCE_GAIN = 1.5
"""Bus bandwidth of all-reduce over that of all-gather between nodes, by trees and reductions in the switch: the median
over 2 to 16 nodes of the playbook (362/185, 160/119, 99.6/69, 84.7/55 GB/s)."""
ALL_REDUCE_NODES = 16
"""Nodes beyond which that gain grows with their square root: 64.9/28 GB/s at 32 and 32.9/11 at 64 (same source), and no
further beyond those."""
EXPOSED = 0.19
"""Part of overlapped collectives that is seen however long the computation: first and last bucket, and what collectives
take from the kernels beside them."""
STALL_NODES = 64
"""Nodes from which `TimeLaw.p2p_stall_seconds` counts: the largest size of the ultra-scale playbook's runs."""

HOST_MEMORY_BANDWIDTH = 150e9
"""Bytes/s per node that Adam on the host reaches: it is bound by memory (ZeRO-Offload, 2101.06840, 5)."""
ADAM_BYTES = 28.0
"""Bytes per parameter of Adam in host memory: gradient, weight and moments read, the last three written, 4 each."""
DISK_BYTES = 12.0
"""Bytes per parameter read from disk, and written: fp32 weight and two moments."""
DISK_READ, DISK_WRITE = 6.0e9, 3.0e9
"""Bytes/s per node where the catalog knows no disks: one drive of PCIe 4.0."""
