"""Time of one optimizer step as a person would work it out on paper; the sum equals the planner's estimate."""

from collections.abc import Iterator

from toolkit.planner.cost.compute import Seconds
from toolkit.planner.cost.cpu_engine import TP_SUMS, agreed_seconds
from toolkit.planner.cost.estimate import passes, slice_of
from toolkit.planner.cost.flops import tokens_per_step
from toolkit.planner.cost.layer import Layer, head_of, layer_of
from toolkit.planner.cost.pipeline import bubble
from toolkit.planner.cost.rates import Rates, rates_of
from toolkit.planner.setup import Setup, wide_bytes
from toolkit.report.explain_lines import Line, Section, over, short_seconds
from toolkit.report.explain_traffic import explain_optimizer, explain_traffic
from toolkit.report.plan_stages import even_stages, layers_words, split_of
from toolkit.units import human_bytes, human_count

DATASHEET = "toolkit/specs/catalog/devices.yaml and nodes.yaml, each number with its source"
MEASURED = "measured by toolkit calibrate"
FLASH = "FlashAttention-2: arXiv 2307.08691, section 3.1"
ROOFLINE = "products, attention and elementwise kernels by roofline: toolkit/planner/cost/compute.py"
AUTO_TP = "calls of DeepSpeed's AutoTP, counted: toolkit/planner/cost/cpu_engine.py"
KORTHIKANTI = "Korthikanti et al., arXiv 2205.05198"
RING = "ring attention: arXiv 2310.01889"
GATHERED_CP = "Llama 3: arXiv 2407.21783, section 3.3.2"
BALANCE = "the least maximum over the stages: toolkit/planner/memory/stages.py, docs/decisions/0013"
BUBBLE = "1F1B: arXiv 2006.09503; interleaved: arXiv 2104.04473, section 2.2"


def explain_time(setup: Setup) -> tuple[Section, ...]:
    """Rates, one layer, and the causes of a step that are not zero."""
    rates = rates_of(setup.cluster, setup.profile.time)
    part = slice_of(rates, setup)
    layer, head = layer_of(rates, setup, part), head_of(rates, setup.shape, part)
    causes = [line for line in _causes(setup, rates, layer=layer, head=head) if line.value]
    seconds = sum(line.value for line in causes)
    return (
        Section("Rates", tuple(_rates(setup, rates))),
        Section("One layer and micro-batch on one rank", tuple(_layer(setup, layer, head))),
        Section("One optimizer step", (*causes, *_step(setup, seconds))),
    )


def _rates(setup: Setup, rates: Rates) -> Iterator[Line]:
    source, device = MEASURED if setup.cluster.measured else DATASHEET, setup.cluster.device
    if setup.precision in ("fp32", "bf16", "fp16"):
        yield Line("peak", device.peak_flops(setup.precision), "FLOP/s", f"{device.name}, {setup.precision}", DATASHEET)
    if not rates.matmuls:
        how = "what large matrix products reach of it"
        yield Line("matrix products", 1 / rates.flop_seconds[setup.precision], "FLOP/s", how, ROOFLINE)
    yield Line("device memory", rates.bandwidth, "B/s", "what elementwise kernels read and write", source)
    if setup.world_size > 1:
        yield Line("inside a node", rates.link, "B/s", "one device, one direction", source)
    if setup.world_size > rates.fast_domain:
        yield Line("network", rates.network, "B/s", "one device's share of its node's adapters", source)


def _layer(setup: Setup, layer: Layer, head: Seconds) -> Iterator[Line]:
    shape, tokens = setup.shape, setup.tokens
    flops = 2.0 * tokens * shape.layer_matmul / setup.tp
    how = f"2 x {tokens:,} tokens x {human_count(shape.layer_matmul)}{over(setup.tp, 'tp')}"
    yield Line("products, FLOPs", flops, "count", how)
    attention = 2.0 * setup.seq_len * tokens * shape.query / setup.tp
    how = f"4 x {setup.seq_len:,} x {tokens:,} x {shape.query:,}{over(setup.tp, 'tp')}, half of it masked"
    yield Line("attention, FLOPs", attention, "count", how, FLASH)
    reached = (flops + attention) / layer.forward / 1e12
    how = f"the two at {reached:,.4g} TFLOP/s, norms and activation included"
    yield Line("forward", layer.forward, "seconds", how, ROOFLINE)
    trained = "inputs' and weights' gradients" if setup.method == "full" else "inputs' gradients, weights are frozen"
    how = f"{layer.backward / layer.forward:.2f} forward passes: {trained}"
    yield Line("backward", layer.backward, "seconds", how)
    if layer.again:
        part = layer.again / layer.forward
        yield Line("forward again", layer.again, "seconds", f"{part:.0%} of a forward pass, recomputed", KORTHIKANTI)
    if layer.tp:
        size = human_bytes(wide_bytes(setup.precision) * tokens * shape.hidden)
        again = setup.recomputed_layers if setup.checkpointing == "full" else 0.0
        forward, backward = 4 + 4 * again, setup.profile.time.tp_gathers
        how = f"{forward:.3g} + {backward} gathers or scatters of {size} over {setup.tp} ranks, forward and backward"
        source = KORTHIKANTI
        if setup.cluster.device.kind == "cpu" and setup.profile.name != "megatron":
            how, source = (
                f"{TP_SUMS + 2 * again:.3g} all-reduces of {size} over {setup.tp} ranks, and of the ends",
                AUTO_TP,
            )
        yield Line("tensor parallel", layer.tp, "seconds", how, source)
    if layer.cp:
        what, source = f"3 x ({setup.cp} - 1) exchanges of keys and values, less attention", RING
        if setup.sp > 1:
            what, source = "8 all-to-alls", "Ulysses: arXiv 2309.14509"
        elif setup.profile.time.cp_gathers:
            what, source = f"keys and values of {setup.cp} ranks gathered, their gradients scattered", GATHERED_CP
        yield Line("sequence, context", layer.cp, "seconds", what, source)
    if layer.waits:
        yield Line("launches", layer.waits, "seconds", "what the host takes longer than the device", ROOFLINE)
    how = f"{shape.vocab:,} x {shape.hidden:,} on the last stage, with the cross entropy, forward and backward"
    how += ", logits computed twice" if setup.chunked_loss else ""
    yield Line("head", head.forward + head.backward, "seconds", how)
    if setup.pp > 1:
        yield from _stages(setup)


def _stages(setup: Setup) -> Iterator[Line]:
    """The stage that the others wait for, with the split that was chosen and with an even one."""
    split, even = split_of(setup), even_stages(setup.shape.num_layers, setup.pp)
    how = f"stages of {layers_words(split.stages)} layers, the last with the head ({split.head:.2f} layers)"
    yield Line("slowest stage", split.slowest, "seconds", f"{how}; the mean is {short_seconds(split.mean)}", BALANCE)
    if not split.is_even:
        how = f"stages of {layers_words(even)} layers: {split.even / split.slowest:.2f} times the slowest above"
        yield Line("evenly divided", split.even, "seconds", how)


def _causes(setup: Setup, rates: Rates, *, layer: Layer, head: Seconds) -> Iterator[Line]:
    accum, layers = setup.grad_accum, setup.shape.num_layers / setup.pp
    loss, both = head.forward + head.backward, layer.forward + layer.backward
    turns = f"{accum:,} micro-batch{'es' if accum > 1 else ''} x {layers:.4g} layers"
    heads = f"{accum:,} head{'s' if accum > 1 else ''}{over(setup.pp, 'pp')}"
    compute = accum * (layers * both + loss / setup.pp)
    yield Line("compute", compute, "seconds", f"{turns} x {short_seconds(both)} + {heads} x {short_seconds(loss)}")
    each = {"recompute": layer.again, "tensor parallel": layer.tp, "sequence, context parallel": layer.cp}
    for name, seconds in each.items():
        yield Line(name, accum * layers * seconds, "seconds", f"{turns} x {short_seconds(seconds)}")
    if setup.pp > 1:
        yield _bubble(setup, layer.total, loss)
    yield from explain_traffic(setup, rates, layer)
    yield from explain_optimizer(setup, rates)
    fixed = rates.law.step_seconds
    agreed = agreed_seconds(rates, setup, forward=passes(setup, layer)[0]) if rates.on_cpu else 0.0
    how = f"{turns} x {short_seconds(layer.waits)} of launches{f' + {short_seconds(fixed)} per step' if fixed else ''}"
    how += f" + {short_seconds(agreed)} of small messages to all ranks" if agreed else ""
    yield Line("overhead", accum * layers * layer.waits + fixed + agreed, "seconds", how)


def _bubble(setup: Setup, layer: float, loss: float) -> Line:
    waits = bubble(setup, layer=layer, head=loss)
    how = f"({short_seconds(waits.whole)} through all stages - {short_seconds(waits.slowest)} of the slowest)"
    how += f"{over(waits.chunks, 'vpp')} + {waits.times:,} x {short_seconds(waits.lead)} longer than the mean"
    return Line("pipeline bubble", waits.seconds, "seconds", how, BUBBLE)


def _step(setup: Setup, seconds: float) -> Iterator[Line]:
    yield Line("step", seconds, "seconds", "sum", is_sum=True)
    sequences = setup.micro_batch * setup.grad_accum * setup.dp
    rate = tokens_per_step(setup) / seconds / setup.world_size
    how = f"{sequences:,} sequences x {setup.seq_len:,} / {short_seconds(seconds)}{over(setup.world_size, 'ranks')}"
    yield Line("per GPU", rate, "tokens/s", how, is_sum=True)
