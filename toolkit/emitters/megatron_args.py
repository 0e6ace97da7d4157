"""Plan and recipe -> megatron_args.sh: the arguments of Megatron-LM's pretrain_gpt.py that make the same model, layout
and step, for those who run Megatron-LM itself; the toolkit's own engine reads the plan.

Names and meanings: megatron/training/arguments.py of Megatron-LM at megatron-core 0.16. Left out on purpose: samples,
tokenizer and checkpoints, which Megatron-LM has in formats of its own.
"""

import shlex
from collections.abc import Iterator, Sequence

from toolkit.emitters.command import on_one_line
from toolkit.planner.plan import Plan
from toolkit.specs.model import ModelSpec, RopeScaling
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import warmup_ratio

LLAMA3_FREQUENCIES = (1.0, 4.0, 8192)
"""low_freq_factor, high_freq_factor and original_max_position_embeddings that --use-rope-scaling has built in."""

DECAY_STYLES = {"constant": "constant", "linear": "linear", "cosine": "cosine"}
"""Schedules that both have, by the recipe's name."""

Section = tuple[str, list[str]]
"""A comment, and lines of arguments; those that begin with # are comments too."""


def megatron_args(plan: Plan, recipe: Recipe) -> str:
    """Text of the file: a bash array to be read by `source`."""
    sections = [*_model(plan), *_layout(plan), *_step(plan), *_training(plan, recipe)]
    lines = [
        f"# {on_one_line(plan.model.name)}, {plan.strategy.words}: arguments of Megatron-LM's pretrain_gpt.py.",
        "# `toolkit launch` does not read this file. With samples, tokenizer and weights in Megatron-LM's formats:",
        f'#   source megatron_args.sh && torchrun {_torchrun(plan)} pretrain_gpt.py "${{MEGATRON_ARGS[@]}}" \\',
        "#     --tokenizer-type HuggingFaceTokenizer --tokenizer-model DIR --data-path DATA --load WEIGHTS --finetune",
    ]
    if plan.workload.method != "full":
        lines.append(
            "# NOT THE SAME: the plan trains adapters, which Megatron-LM does not have: these train all weights."
        )
    lines.append("MEGATRON_ARGS=(")
    for comment, arguments in sections:
        lines += [f"  # {comment}", *(f"  {argument}" for argument in arguments)]
    return "\n".join([*lines, ")"]) + "\n"


def _torchrun(plan: Plan) -> str:
    per_node = f"--nproc-per-node {plan.world_size // plan.cluster.num_nodes}"
    nodes = plan.cluster.num_nodes
    return per_node if nodes == 1 else f"--nnodes {nodes} --node-rank RANK --master-addr ADDRESS {per_node}"


def _arg(name: str, *values: object) -> str:
    return " ".join([f"--{name}", *(shlex.quote(str(value)) for value in values)])


def _model(plan: Plan) -> Iterator[Section]:
    model = plan.model
    shape = [
        _arg("num-layers", model.num_layers),
        _arg("hidden-size", model.hidden_size),
        _arg("ffn-hidden-size", model.intermediate_size),
        _arg("num-attention-heads", model.num_heads),
        _arg("kv-channels", model.head_dim),
        _arg("max-position-embeddings", model.max_position_embeddings),
    ]
    if model.num_kv_heads < model.num_heads:
        shape.append(f"--group-query-attention {_arg('num-query-groups', model.num_kv_heads)}")
    yield "the model's shape", shape
    layers = ["--normalization RMSNorm", "--swiglu", "--disable-bias-linear"]
    layers += ["--attention-dropout 0.0", "--hidden-dropout 0.0"]
    if model.norm_eps is None:
        layers.append("# --norm-epsilon: rms_norm_eps of the model's config.json; Megatron-LM's own is 1e-5")
    else:
        layers.append(_arg("norm-epsilon", model.norm_eps))
    if not model.tied_embeddings:
        layers.append("--untie-embeddings-and-output-weights")
    yield "the layers of a LLaMA", layers
    yield "rotary embeddings", list(_rope(model))
    rows = [_arg("make-vocab-size-divisible-by", 1)]
    yield f"{model.vocab_size} tokens: Megatron-LM multiplies this by the tensor-parallel size, and fills rows up", rows


def _rope(model: ModelSpec) -> Iterator[str]:
    yield "--position-embedding-type rope"
    if model.rope_theta == int(model.rope_theta):
        yield _arg("rotary-base", int(model.rope_theta))
    else:
        yield f"# NOT THE SAME: rope_theta is {model.rope_theta:g}, --rotary-base takes whole numbers only"
    yield from [] if model.rope_scaling is None else _scaling(model.rope_scaling)


def _scaling(scaling: RopeScaling) -> Iterator[str]:
    factor = scaling.factor or 1.0
    if scaling.rope_type == "llama3":
        given = (scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings)
        if given == LLAMA3_FREQUENCIES:
            yield f"--use-rope-scaling {_arg('rope-scaling-factor', factor)}"
        else:
            built_in = ", ".join(f"{number:g}" for number in LLAMA3_FREQUENCIES)
            yield f"# NOT THE SAME: llama3 frequencies with {given}; --use-rope-scaling has {built_in} built in"
    elif scaling.rope_type == "linear" and factor == int(factor):
        yield _arg("rotary-seq-len-interpolation-factor", int(factor))
    else:
        yield f"# NOT THE SAME: rope_type {scaling.rope_type} with factor {factor:g} has no argument"


def _layout(plan: Plan) -> Iterator[Section]:
    strategy, layout = plan.strategy, plan.strategy.layout
    yield (
        f"{plan.world_size} rank(s), {layout.dp} replica(s)",
        [
            _arg("tensor-model-parallel-size", layout.tp),
            _arg("pipeline-model-parallel-size", layout.pp),
            _arg("context-parallel-size", layout.cp),
            *(["--sequence-parallel"] if strategy.tp_sequence and layout.tp > 1 else []),
            "--use-distributed-optimizer",
        ],
    )
    if layout.pp > 1:
        yield from _stages(plan)


def _stages(plan: Plan) -> Iterator[Section]:
    strategy, layers = plan.strategy, plan.model.num_layers
    stages, chunks = strategy.stages, strategy.chunks
    comment = f"{layers} layers on {len(stages)} stages: {', '.join(map(str, stages))}"
    sizes = [size for row in chunks for size in row]
    each, first, last = max(sizes), chunks[0][0], chunks[-1][-1]
    if set(sizes[1:-1]) - {each} or min(first, last) < each - 1:
        yield comment, [_arg("pipeline-model-parallel-layout", layout_words(chunks))]
        return
    arguments = ["--account-for-embedding-in-pipeline-split"] if first < each else []
    arguments += ["--account-for-loss-in-pipeline-split"] if last < each else []
    if strategy.vpp > 1:
        arguments.append(_arg("num-layers-per-virtual-pipeline-stage", each))
    yield comment, arguments


def layout_words(chunks: Sequence[Sequence[int]]) -> str:
    """Megatron's own words for stages: E, t and L are embedding, decoder layer and loss, | divides, *n repeats."""
    pieces = [f"t*{row[chunk]}" if row[chunk] else "" for chunk in range(len(chunks[0])) for row in chunks]
    pieces[0], pieces[-1] = f"E{pieces[0]}", f"{pieces[-1]}L"
    return "|".join(pieces)


def _step(plan: Plan) -> Iterator[Section]:
    strategy, workload = plan.strategy, plan.workload
    yield (
        f"{strategy.grad_accum} micro-batches per replica and step",
        [
            _arg("seq-length", workload.seq_len),
            _arg("micro-batch-size", strategy.micro_batch),
            _arg("global-batch-size", workload.global_batch),
            # The mean over all labelled tokens of a global batch, not of the means of its micro-batches.
            "--calculate-per-token-loss",
        ],
    )
    precision = {"fp32": [], "bf16": ["--bf16"], "fp16": ["--fp16", "--initial-loss-scale 65536"]}[workload.precision]
    if precision:
        yield "fp32 master weights beside 16 bits; gradients are added up in fp32", precision
    match strategy.activation_checkpointing:
        case "full":
            layers = ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
            yield "every layer is computed again from its input", layers
        case "selective":
            yield "attention's scores are computed again", ["--recompute-granularity selective"]


def _training(plan: Plan, recipe: Recipe) -> Iterator[Section]:
    numbers, schedule = recipe.optimizer, recipe.schedule
    adam = [
        "--optimizer adam",
        _arg("lr", numbers.learning_rate),
        _arg("adam-beta1", numbers.beta1),
        _arg("adam-beta2", numbers.beta2),
        _arg("adam-eps", numbers.eps),
        _arg("weight-decay", numbers.weight_decay),
        _arg("clip-grad", plan.gradient_clipping),
    ]
    if numbers.weight_decay and not numbers.decay_all:
        adam.append("# NOT THE SAME: Megatron-LM lets embeddings decay too")
    if numbers.groups:
        adam.append("# NOT THE SAME: optimizer.groups of the recipe have no arguments")
    yield "AdamW", adam
    steps = [_arg("seed", recipe.seed)]
    if recipe.max_steps is None:
        steps.append("# --train-iters: epochs x rows / global batch")
    else:
        steps.append(_arg("train-iters", recipe.max_steps))
    if style := DECAY_STYLES.get(schedule.kind):
        steps += [_arg("lr-decay-style", style), _arg("min-lr", numbers.learning_rate * schedule.min_ratio)]
        if schedule.warmup_steps is not None:
            steps.append(_arg("lr-warmup-iters", schedule.warmup_steps))
        else:
            steps.append(_arg("lr-warmup-fraction", warmup_ratio(schedule)))
    else:
        steps.append(f"# NOT THE SAME: schedule.kind {schedule.kind} has no argument")
    yield "the schedule", steps
