"""Memory of the fullest device as a person would work it out on paper; every sum equals the planner's estimate."""

from collections.abc import Iterator

from toolkit.planner.estimates import MemoryEstimate
from toolkit.planner.memory.activations import (
    FUSED_MLP,
    element_factor,
    in_flight,
    kept_bytes,
    key_value_width,
    layer_bytes,
    layer_law,
    logits_bytes,
    outside_bytes,
    products_bytes,
    recomputed_bytes,
    score_bytes,
    working_bytes,
)
from toolkit.planner.memory.estimate import CPU_PROCESS_BYTES, instants
from toolkit.planner.memory.process import in_process
from toolkit.planner.memory.stages import bounds, layers_in_flight, stage_layers, stage_params, stage_trained
from toolkit.planner.memory.states import end_bytes, states_of
from toolkit.planner.setup import Setup, num_checkpointed, wide_bytes
from toolkit.report.explain_lines import Line, Section, over
from toolkit.report.explain_room import explain_buffers, explain_host
from toolkit.specs.workload import loss_block
from toolkit.units import human_bytes, human_count

ZERO = "ZeRO: Rajbhandari et al., arXiv 1910.02054, figure 1 and section 5"
ONE_F_ONE_B = "1F1B: arXiv 2006.09503; interleaved: megatron/core/pipeline_parallel/schedules.py"


def explain_memory(setup: Setup, memory: MemoryEstimate) -> tuple[Section, ...]:
    """Parameters, states, activations, logits, buffers, instants and their sum, for the stage of `memory`."""
    stage = memory.stage
    sections = [
        Section(f"Parameters{_of_stage(setup, stage)} on one rank", tuple(_parameters(setup, stage))),
        Section("States, kept from step to step", tuple(_states(setup, stage))),
        Section("Activations of one layer and micro-batch", tuple(_layer(setup))),
        Section("Activations at their fullest", tuple(_activations(setup, stage))),
        Section("Buffers", tuple(explain_buffers(setup, stage))),
        Section("Instants of the step, without the states that never move", tuple(_instants(setup, stage))),
        Section("The device", tuple(_device(setup, memory))),
    ]
    if memory.host_bytes or memory.disk_bytes:
        sections.append(Section("Host, per node", tuple(explain_host(setup, memory))))
    return tuple(section for section in sections if section.lines)


def profile_source(setup: Setup) -> str:
    """Where the framework's constants come from."""
    return f"{setup.profile.name} in toolkit/specs/catalog/frameworks.yaml: {setup.profile.memory.source}"


def _of_stage(setup: Setup, stage: int) -> str:
    return f" of stage {stage} of {setup.pp}" if setup.pp > 1 else ""


def _parameters(setup: Setup, stage: int) -> Iterator[Line]:
    shape, tp = setup.shape, setup.tp
    layers, ends = stage_params(setup, stage)
    products = "2" if not shape.gated else "3"
    how = f"{shape.hidden:,} x (2 x {shape.query:,} + 2 x {shape.key_value:,}) + {products} x {shape.hidden:,} x "
    how += f"{shape.ffn:,} + norms and biases {shape.layer_params - shape.layer_matmul:,}"
    yield Line("one decoder layer", shape.layer_params, "count", how, "shapes in the model's config.json")
    count = stage_layers(setup)[stage]
    yield Line("decoder layers", layers, "count", f"{count} x {human_count(shape.layer_params)}{over(tp, 'tp')}")
    if ends:
        how = f"{shape.vocab:,} x {shape.hidden:,} each{over(tp, 'tp')}"
        yield Line("embedding, head, last norm", ends, "count", how)
    if setup.method != "full":
        how = f"rank {setup.lora_rank}, {count} layers x {setup.adapter_params:,}{over(tp, 'tp')}"
        yield Line("adapters", count * setup.adapter_params / tp, "count", how, "LoRA: arXiv 2106.09685")
    if setup.head_adapter_params and stage == setup.pp - 1:
        how = f"rank {setup.lora_rank} x ({shape.hidden:,} + {shape.vocab:,})"
        yield Line("adapter of the head", setup.head_adapter_params, "count", how)
    if setup.trained is not None:
        own = sum(stage_trained(setup, stage))
        yield Line("trained of the model's own", own, "count", "modules_to_save, or what freeze and train_only leave")


def _states(setup: Setup, stage: int) -> Iterator[Line]:
    states, sizes, zero = states_of(setup, stage), setup.states, setup.zero_stage
    layers, ends = stage_params(setup, stage)
    divided = over(setup.shards if zero >= 3 else 1, "shards")
    if setup.method == "full":
        how = f"{sizes.weight:g} B x {human_count(layers + ends)}{divided}"
    else:
        end = end_bytes(setup)
        adapters = states.trainable - sum(stage_trained(setup, stage))
        how = f"({sizes.frozen:.3g} B x {human_count(layers)} frozen + {end:g} B x {human_count(ends)} + "
        how += f"{sizes.weight:g} B x {human_count(adapters)} adapters){divided}"
    host = "in host memory" if setup.offload_to == "cpu" else "on disk"
    yield Line("weights", states.weights, "bytes", host if setup.offload == "all" else how, ZERO)
    off = setup.offload != "none"
    how = f"{sizes.grad:g} B x {human_count(states.trainable)}{over(setup.shards if zero >= 2 else 1, 'shards')}"
    gone = f"moved to the host as they are reduced ({host})"
    yield Line("gradients", states.gradients, "bytes", gone if off and zero >= 2 else how, ZERO)
    how = f"{sizes.optimizer:g} B x {human_count(states.trainable)}{over(setup.shards if zero >= 1 else 1, 'shards')}"
    yield Line("optimizer states", states.optimizer, "bytes", host if off else how, ZERO)


def _layer(setup: Setup) -> Iterator[Line]:
    shape, law, memory = setup.shape, setup.profile.memory, profile_source(setup)
    parts = layer_law(setup)
    tp, factor = setup.tp, element_factor(setup)
    spread = tp if setup.tp_sequence else 1
    ffn = 0.0 if setup.tiled_mlp else parts.ffn if not setup.fused_mlp else min(parts.ffn, FUSED_MLP)
    ffn *= 1.0 if shape.gated else 2 / 3
    rows = [
        ("norms, residual stream", parts.hidden, shape.hidden, spread),
        ("inputs kept whole", parts.gathered_hidden, shape.hidden, 1),
        ("queries, attention output", parts.query, shape.query, tp),
        ("keys, values", parts.key_value, key_value_width(setup), tp),
        ("MLP", ffn, shape.ffn, tp),
    ]
    total = 0.0
    for name, per_element, width, ranks in rows:
        if per_element:
            size = factor * per_element * width / ranks
            total += size
            how = f"{factor * per_element:.3g} B x {width:,}{over(ranks, 'tp')}, per token"
            yield Line(name, size, "bytes", how, memory)
    if setup.method != "full":
        elements = shape.adapter_inputs(setup.lora_targets, shared=law.adapter_inputs_shared)
        size = factor * law.adapter_input * elements / tp
        total += size
        how = f"{factor * law.adapter_input:.3g} B x {elements:,}{over(tp, 'tp')}, per token"
        yield Line("inputs of the adapters", size, "bytes", how, memory)
    how = f"micro-batch {setup.micro_batch} x {setup.seq_len:,}{over(setup.sp, 'sp')}{over(setup.cp, 'cp')}"
    yield Line("tokens", setup.tokens, "count", how)
    how = f"{setup.tokens:,} tokens x {total:,.0f} B"
    if scores := score_bytes(setup):
        of = f"{law.scores:g} B x {setup.micro_batch} x {shape.num_heads} heads x {setup.seq_len:,}^2{over(tp, 'tp')}"
        yield Line("attention scores", scores, "bytes", f"{of}{over(setup.cp, 'cp')}", "arXiv 2205.05198, section 4")
        how += " + scores"
    yield Line("one layer keeps", layer_bytes(setup), "bytes", how, is_sum=True)


def _activations(setup: Setup, stage: int) -> Iterator[Line]:
    held, kept = layers_in_flight(setup, stage), kept_bytes(setup, stage)
    shape, law, factor = setup.shape, setup.profile.memory, element_factor(setup)
    tp = setup.tp if setup.tp_sequence else 1
    count = stage_layers(setup)[stage]
    how = f"{count} layers x {min(in_flight(setup, stage), setup.grad_accum)} micro-batches"
    if setup.vpp > 1:
        how = f"{count} layers / vpp {setup.vpp} x chunks begun and not finished"
    yield Line("layers in flight", held, "count", how, ONE_F_ONE_B)
    whole = human_bytes(layer_bytes(setup))
    outside = outside_bytes(setup)
    wide = setup.carried_bytes
    outside_how = f"{law.outside_hidden / 2 * wide:g} B x {shape.hidden:,} x {setup.tokens:,}{over(tp, 'tp')}"
    if setup.checkpointing != "full" or setup.checkpointing_every > 1:
        outside *= in_flight(setup, stage)
        outside_how += f" x {in_flight(setup, stage)} micro-batches"
    source = "Korthikanti et al., arXiv 2205.05198" if setup.checkpointing != "none" else ""
    match setup.checkpointing:
        case "full" if setup.checkpointing_every > 1:
            inputs = num_checkpointed(*bounds(setup, stage), every=setup.checkpointing_every)
            where = "nothing (inputs in host memory)" if setup.offloaded_activations else "the input"
            how = f"{inputs} layers keep {where}, {count - inputs} {whole}, x {in_flight(setup, stage)} micro-batches"
        case "full" if setup.offloaded_activations:
            how = "inputs, in host memory"
        case "full":
            how = f"inputs only: {wide:g} B x {shape.hidden:,} x {setup.tokens:,}{over(tp, 'tp')} x {held:g}"
        case "selective" if law.products is not None:
            inputs = num_checkpointed(*bounds(setup, stage), every=setup.checkpointing_every)
            others = f", {count - inputs} {whole}" if inputs < count else ""
            how = f"{inputs} layers keep {human_bytes(products_bytes(setup))}{others}, x {in_flight(setup, stage)} "
            how += f"micro-batches: {_kept_products(setup)}"
            source = "counted: the outputs that toolkit/models/selective.py keeps of a LlamaDecoderLayer"
        case "selective":
            how = f"{held:g} x ({whole} - {human_bytes(recomputed_bytes(setup))} recomputed)"
        case _:
            how = f"{held:g} x {whole}"
    yield Line("kept by layers", kept - outside, "bytes", how, source)
    yield Line("kept outside of layers", outside, "bytes", outside_how, profile_source(setup))
    yield Line("kept", kept, "bytes", "sum of the two", is_sum=True)
    again = {"none": "", "selective": f" + {human_bytes(recomputed_bytes(setup))} again", "full": f" + {whole} again"}
    how = f"{setup.tokens:,} x ({law.working_ffn * factor:g} B x {shape.ffn:,}{over(setup.tp, 'tp')} + "
    how += f"{law.working_hidden * factor:g} B x {shape.hidden:,}){again[setup.checkpointing]}"
    if working := working_bytes(setup):
        yield Line("layer at work, backward", working, "bytes", how, profile_source(setup))
    parts = setup.tp if law.vocab_parallel else 1
    if logits := logits_bytes(setup, stage):
        how = f"{law.logits_bytes:g} B x {shape.vocab:,} x {setup.tokens:,}{over(parts, 'tp')}"
        if setup.chunked_loss:
            how = _chunked_loss(setup)
        elif setup.fused_loss:
            how = f"{law.fused_loss_hidden:g} B x {shape.hidden:,} x {setup.tokens:,}, in chunks"
        yield Line("logits, cross entropy", logits, "bytes", how, profile_source(setup))


def _kept_products(setup: Setup) -> str:
    """`products_bytes` in words."""
    shape, wide = setup.shape, setup.carried_bytes
    summed = ", o" if setup.tp == 1 else ""
    attention = ", attention" if setup.flash_attention else ""
    return f"input {wide:g} B x {shape.hidden:,}, q, k, v{attention}{summed}, gate and up, {setup.tokens:,} tokens"


def _chunked_loss(setup: Setup) -> str:
    """`chunked_loss_bytes` in words."""
    shape, tokens, wide = setup.shape, setup.tokens, wide_bytes(setup.precision) == 4
    columns = shape.vocab // setup.tp
    block, each = loss_block(tokens, columns), (4, 12) if wide else (6, 6)
    how = f"{tokens:,} x ({each[0]} B x {block:,} of {columns:,} columns at a time + {each[1]} B x {shape.hidden:,})"
    if setup.method == "full":
        how += f" + {wide_bytes(setup.precision):g} B x {columns:,} x {shape.hidden:,} of the head's gradient"
    return how


def _instants(setup: Setup, stage: int) -> Iterator[Line]:
    for instant in instants(setup, stage, states_of(setup, stage)):
        parts = {
            "gradients": instant.gradients,
            "activations": instant.activations,
            "logits": instant.logits,
            "optimizer's temporaries": instant.optimizer,
            "buffers": instant.buffers,
        }
        how = " + ".join(f"{name} {human_bytes(size)}" for name, size in parts.items() if size)
        yield Line(instant.name, instant.size, "bytes", how or "nothing")


def _device(setup: Setup, memory: MemoryEstimate) -> Iterator[Line]:
    states, law = states_of(setup, memory.stage), setup.profile.memory
    peak = max(instants(setup, memory.stage, states), key=lambda instant: instant.size)
    yield Line("weights", states.weights, "bytes", "as above")
    yield Line("optimizer states", states.optimizer, "bytes", "as above")
    yield Line("largest instant", peak.size, "bytes", peak.name)
    allocated = states.weights + states.optimizer + peak.size
    yield Line("allocated", allocated, "bytes", "torch's max_memory_allocated", is_sum=True)
    comes_and_goes = peak.activations + peak.logits + peak.buffers
    comes_and_goes += 0.0 if law.persistent_grads else peak.gradients
    more = f" + {human_bytes(law.fragmentation_bytes)}" if law.fragmentation_bytes else ""
    how = f"{law.fragmentation:.0%} of {human_bytes(comes_and_goes)}, which come and go in a step{more}"
    fragmentation = law.fragmentation * comes_and_goes + law.fragmentation_bytes
    if in_process(setup):
        fragmentation, how = 0.0, "holes of the heap are in the terms above"
    yield Line("fragmentation", fragmentation, "bytes", how, profile_source(setup))
    reserved = allocated + fragmentation
    yield Line("reserved", reserved, "bytes", "torch's max_memory_reserved", is_sum=True)
    if setup.cluster.device.kind == "cpu":
        context, how = float(CPU_PROCESS_BYTES), "interpreter and libraries of one process"
        source = "resident size after importing torch and deepspeed"
    else:
        ranks = law.communicator_bytes if setup.world_size > 1 else 0.0
        context, source = law.context_bytes + ranks, "stas00/ml-engineering, training/performance: 0.5 to 2 GiB"
        how = f"context and kernels {human_bytes(law.context_bytes)}"
        how += f" + communicators {human_bytes(ranks)}" if ranks else ""
    yield Line("context", context, "bytes", how, source)
    yield Line("device total", reserved + context, "bytes", "what the driver shows as used", is_sum=True)
