"""Time between ranks and of the optimizer, worked out on paper: stage to stage, data parallelism, offload, Adam."""

from collections.abc import Iterator

from toolkit.planner.cost import constants
from toolkit.planner.cost.cpu_engine import copy_seconds, gathered_times
from toolkit.planner.cost.data_parallel import Traffic, exposed_seconds, traffic
from toolkit.planner.cost.estimate import passes
from toolkit.planner.cost.layer import Layer
from toolkit.planner.cost.offload import host_seconds, optimizer_seconds
from toolkit.planner.cost.owned import Owned, owned
from toolkit.planner.cost.pipeline import crossings
from toolkit.planner.cost.rates import Rates
from toolkit.planner.memory.stages import stage_layers
from toolkit.planner.setup import Setup
from toolkit.report.explain_lines import Line, over, short_seconds
from toolkit.specs.communication import CommunicationConfig
from toolkit.units import human_bytes, human_count

ALPHA_BETA = "rings and trees by latency and bandwidth: toolkit/planner/cost/network.py"
VOLUMES = "ZeRO: arXiv 1910.02054, section 7; rings by latency and bandwidth: toolkit/planner/cost/network.py"
OFFLOAD = "ZeRO-Offload: arXiv 2101.06840, sections 4.1 and 5"
ADAM = "bytes that Adam reads and writes: toolkit/planner/time_law.py and cost/constants.py"


def explain_traffic(setup: Setup, rates: Rates, layer: Layer) -> Iterator[Line]:
    """Activations from stage to stage, and gradients and weights between replicas."""
    if setup.pp > 1:
        yield _crossings(setup, rates)
    own = _owned(setup)
    forward, backward = passes(setup, layer)
    sent = traffic(rates, setup, own, forward=forward, backward=backward)
    how = f"{_collectives(setup, own, rates)} over {setup.shards:,} ranks: {_exposed(rates, sent)}"
    yield Line("data parallel, ZeRO", exposed_seconds(rates, sent), "seconds", how, VOLUMES)


def explain_optimizer(setup: Setup, rates: Rates) -> Iterator[Line]:
    """Adam where its states are, and the way there."""
    own = _owned(setup)
    trained = human_count(own.trained)
    if setup.offload == "none":
        divided = over(setup.shards if setup.zero_stage >= 1 else 1, "shards")
        if rates.on_cpu:
            together = min(rates.per_node, setup.world_size)
            how = f"{constants.ADAM_BYTES:g} B x {trained}{divided} x {together} ranks / {_rate(rates.adam_bandwidth)}"
            if rates.on_measured_cpu:
                how += f" + {short_seconds(copy_seconds(rates, setup, own))} of the engine's copies"
        else:
            how = f"{rates.law.optimizer_bytes:g} B x {trained}{divided} / {_rate(rates.bandwidth)}"
        yield Line("optimizer", optimizer_seconds(rates, setup, own), "seconds", how, ADAM)
        return
    host = host_seconds(rates, setup, own)
    share = f"{trained}{over(setup.shards, 'shards')}"
    in_host = setup.offload == "optimizer" or own.trained == own.params
    ranks = f" x {min(rates.per_node, setup.world_size)} ranks" if in_host else ""
    rate = _rate(rates.adam_bandwidth if in_host else rates.bandwidth)
    how = f"{constants.ADAM_BYTES:g} B x {share}{ranks} / {rate}{' of host memory' if in_host else ''}"
    yield Line("optimizer", host.optimizer, "seconds", how, OFFLOAD)
    how = f"2 B x {share} x ({setup.grad_accum:,} down / {_rate(rates.to_host)} + 1 up / {_rate(rates.from_host)})"
    if setup.offload == "all":
        how += f" + weights {human_bytes(own.weight_bytes / setup.shards)} up twice per micro-batch"
    if setup.offload_to == "nvme":
        how += f" + {constants.DISK_BYTES:g} B per parameter read from and written to disk"
    yield Line("offload", host.transfers, "seconds", how, OFFLOAD)


def _owned(setup: Setup) -> Owned:
    layers = stage_layers(setup)
    return owned(setup, max(layers), layers[-1])


def _crossings(setup: Setup, rates: Rates) -> Line:
    way = crossings(rates, setup)
    both_ways = 2 * (setup.grad_accum * setup.vpp + setup.pp)
    how = f"(2 x ({setup.grad_accum:,} x vpp {setup.vpp} + pp {setup.pp}) - {both_ways - way.times}) x "
    how += f"{short_seconds(way.one)} for "
    how += human_bytes(way.num_bytes) + (f", {way.seen:.0%} of it seen" if way.seen < 1 else "")
    how += f", and {short_seconds(way.stall)} of waiting" if way.stall else ""
    return Line("stage to stage", way.seconds, "seconds", how, ALPHA_BETA)


def _collectives(setup: Setup, own: Owned, rates: Rates) -> str:
    gradients, weights = human_count(own.trained), human_bytes(own.weight_bytes)
    times = f"{setup.grad_accum:,} x " if setup.grad_accum > 1 else ""
    # What DeepSpeed really calls: toolkit/planner/cost/cpu_engine.py.
    on_cpu = rates.on_measured_cpu
    summed, gathers = ("all-reduce", f"{gathered_times(setup):.3g}") if on_cpu else ("reduce-scatter", "2")
    match setup.zero_stage:
        case 0:
            return _sent_whole(setup.communication, gradients)
        case 1:
            return f"{summed} of {gradients} gradients, all-gather of the updated weights"
        case 2:
            return f"{times}{summed} of {gradients} gradients, all-gather of the updated weights"
        case _:
            return f"{times}({gathers} all-gathers of {weights} + reduce-scatter of {gradients} gradients)"


def _sent_whole(asked: CommunicationConfig, gradients: str) -> str:
    """ZeRO-0, where the recipe may have it otherwise."""
    if asked.local_steps > 1:
        return f"all-reduce of {gradients} weights every {asked.local_steps} steps, per step,"
    if asked.compression != "none":
        return f"{asked.compression} of {gradients} gradients, with its arithmetic,"
    return f"all-reduce of {gradients} gradients"


def _exposed(rates: Rates, sent: Traffic) -> str:
    if rates.on_cpu:
        return f"{short_seconds(sent.beside + sent.after)}, nothing overlaps on a CPU"
    beside, hidden = short_seconds(sent.beside), short_seconds(rates.law.dp_overlap * sent.window)
    after = f" + {short_seconds(sent.after)} after it" if sent.after else ""
    return f"max({beside} - {hidden} of computation beside it, {constants.EXPOSED:.0%} of it){after}"


def _rate(value: float) -> str:
    return f"{value / 1e9:,.4g} GB/s"
