"""Why an engine cannot run a set-up: what its table lacks, and the rules that no table holds."""

import itertools
import math
from collections.abc import Iterator

from toolkit.planner.fault import Fault, lacks, rule
from toolkit.planner.memory.stages import split_layers
from toolkit.planner.methods import idle_stages, mixed_faults, quantised_faults
from toolkit.planner.multiples import choice, divisors, nearest
from toolkit.planner.rules import DEGREES, ENGINES, Rules
from toolkit.planner.setup import Offload, Setup
from toolkit.planner.step_rules import step_faults
from toolkit.planner.strategy import EngineName, stages_words
from toolkit.specs.optimizer import OPTIMIZERS

_STAGES_TOLD = 8
"""Longer splits are not spelled out."""


def fault(engine: EngineName, setup: Setup) -> Fault | None:
    """The first reason why the engine cannot run the set-up; None where it can."""
    return next(faults(engine, setup), None)


def faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """Every reason why the engine cannot run the set-up."""
    yield from layout_faults(engine, setup)
    yield from interleaving_faults(engine, setup)
    yield from state_faults(engine, setup)
    yield from step_faults(engine, setup)


def is_lack(found: Fault) -> bool:
    """True where the engine has no such thing at all, whatever the value."""
    return found.kind == "not of the engine"


def layout_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """Faults in tp, pp, sp and cp: what the engine divides, and what the model can be divided into."""
    rules = ENGINES[engine]
    for name in ("tp", "pp", "sp", "cp"):
        if name == "pp" and setup.stages:
            continue  # _split_faults has it: whoever gives the stages' layers has not given pp
        if getattr(setup, name) > 1 and name not in rules.degrees:
            yield lacks(f"{name}={getattr(setup, name)}: engine {engine} has no {DEGREES[name]}; use {name}=1")
    if engine == "pipeline" and setup.pp == 1:
        yield lacks("pp=1: engine pipeline needs two stages or more; use pp=2 or engine=zero")
    if setup.tp_sequence and engine != "mcore":
        words = "keeps all tokens on every tensor-parallel rank; use engine=mcore, or leave it out"
        yield lacks(f"tp_sequence=true: engine {engine} {words}")
    if setup.tp > 1:
        yield from _tensor_faults(engine, rules, setup)
    if setup.sp > 1 and "sp" in rules.degrees:
        needs = f"sp={setup.sp} does not divide seq_len={setup.seq_len}"
        length = [Fault("sequence", f"{needs}; {_lengths(setup, setup.sp)}")] if setup.seq_len % setup.sp else []
        yield from list(_heads_faults("sp", setup.sp, setup)) or length
        if setup.tp > 1:
            yield from _shared_heads_faults(setup)
    if setup.pp > 1 and "pp" in rules.degrees:
        yield from _stage_faults(rules, setup)
    if setup.stages:
        yield from _split_faults(engine, setup)
        yield from (Fault("layers", words) for words in idle_stages(setup))
    if setup.cp > 1 and setup.seq_len % (2 * setup.cp):
        # Each rank holds one block from the front and one from the back, so that causal masks cost all the same.
        needs = f"cp={setup.cp} needs a seq_len that 2 x cp = {2 * setup.cp} divides, not {setup.seq_len}"
        yield Fault("sequence", f"{needs}; {_lengths(setup, _blocks(setup))}")


def _stage_faults(rules: Rules, setup: Setup) -> Iterator[Fault]:
    layers = setup.shape.num_layers
    if setup.pp > layers:
        yield Fault("layers", f"pp={setup.pp} exceeds the model's {layers} layers; use 1 to {layers}")
    elif rules.even_stages and not setup.stages and _slots(layers, setup.pp) is None:
        works = _that_divide(setup, "pp", [pp for pp in range(1, layers + 1) if _slots(layers, pp)])
        needs = f"pp={setup.pp} does not divide {layers} layers into equal stages; use {choice(works)}"
        split = stages_words(split_layers(layers, setup.pp, rule="even"))
        yield Fault("layers", needs + (f", or stages={split}" if setup.pp <= _STAGES_TOLD else ""))


def _split_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    stages, layers = setup.stages, setup.shape.num_layers
    words = f"stages={stages_words(stages)}"
    if not ENGINES[engine].own_stages:
        able = [other for other, rules in ENGINES.items() if rules.own_stages]
        yield lacks(f"{words}: engine {engine} takes no split of the layers; use engine={choice(able)}, or no stages")
        return
    if len(stages) != setup.pp:
        works = f"{setup.pp} numbers, or pp={len(stages)}"
        yield Fault("layers", f"{words} is for {len(stages)} stages, pp is {setup.pp}; use {works}")
    if sum(stages) != layers:
        yield Fault("layers", f"{words} adds up to {sum(stages)}, the model has {layers} layers; use numbers that do")
    if stages[-1] == 0 and setup.method != "full":
        yield Fault("layers", f"{words}: a last stage without layers has no adapters to train; give it one or more")
    if 0 in stages[:-1]:
        yield Fault(
            "layers", f"{words}: every stage but the last needs a layer; use 1 and more, and 0 for the last only"
        )


def _slots(layers: int, pp: int) -> int | None:
    """Layers that equal stages have place for; None where no stages are equal.

    Megatron counts embedding and head as a layer each where asked to (account_for_embedding_in_pipeline_split and
    account_for_loss_in_pipeline_split, core/transformer/transformer_block.py): the 126 layers of Llama-3.1-405B are 7,
    14 times 8, and 7 on 16 stages. An end of the pipeline keeps a layer beside what is counted as one.
    """
    able = (layers + ends for ends in (0, 1, 2) if (layers + ends) % pp == 0 and (ends == 0 or layers + ends > pp))
    return next(able, None)


def chunk_counts(layers: int, pp: int) -> list[int]:
    """Numbers of equal chunks per stage that an interleaved schedule can have."""
    slots = _slots(layers, pp)
    return [1] if slots is None else divisors(slots // pp)


def _tensor_faults(engine: EngineName, rules: Rules, setup: Setup) -> Iterator[Fault]:
    yield from (heads := list(_heads_faults("tp", setup.tp, setup)))
    if setup.method not in rules.tp_methods:
        words = "loses the adapters where it divides layers" if engine == "zero" else "divides full layers only"
        instead = ", or engine=mcore" if setup.method in ENGINES["mcore"].tp_methods else ""
        yield rule(f"tp={setup.tp}: engine {engine} {words}; use tp=1 with method={setup.method}{instead}")
    if engine == "mcore" and setup.shape.ffn % setup.tp:
        works = _that_divide(setup, "tp", [n for n in divisors(setup.shape.num_kv_heads) if setup.shape.ffn % n == 0])
        yield Fault("heads", f"tp={setup.tp} does not divide intermediate_size={setup.shape.ffn}; use {choice(works)}")
    of_cp = setup.cp > 1 and setup.seq_len % (2 * setup.cp)  # told by itself
    if setup.tp_sequence and setup.seq_len // setup.cp % setup.tp and not heads and not of_cp:
        ranks = f"tp={setup.tp}" + (f" x cp={setup.cp}" if setup.cp > 1 else "")
        needs = f"{ranks} divides the tokens too, seq_len={setup.seq_len} is not a multiple of {setup.tp * setup.cp}"
        yield Fault("sequence", f"{needs}; {_lengths(setup, _blocks(setup))}, or tp_sequence=false")


def _that_divide(setup: Setup, name: str, sizes: list[int]) -> list[int]:
    """Those of the sizes of one degree that divide the ranks which the other degrees leave."""
    degrees = {"tp": setup.tp, "pp": setup.pp, "sp": setup.sp, "cp": setup.cp}
    world, others = setup.cluster.world_size, math.prod(size for other, size in degrees.items() if other != name)
    # Where the other degrees are at fault too, nothing goes with them.
    return [size for size in sizes if world % (size * others) == 0] or [size for size in sizes if world % size == 0]


def _heads_faults(name: str, value: int, setup: Setup) -> Iterator[Fault]:
    heads, kv_heads = setup.shape.num_heads, setup.shape.num_kv_heads
    if heads % value:
        kind = f"{heads} attention heads"
    elif kv_heads % value:
        kind = f"{kv_heads} key/value heads"
    else:
        return
    # Megatron-core would let tp be a multiple of them; no engine here cuts a head's weights, or holds them twice.
    works = [n for n in divisors(heads) if kv_heads % n == 0]
    works = [n for n in works if name != "sp" or setup.seq_len % n == 0]
    yield Fault("heads", f"{name}={value} does not divide {kind}; use {choice(_that_divide(setup, name, works))}")


def _shared_heads_faults(setup: Setup) -> Iterator[Fault]:
    """Each tensor-parallel rank exchanges its own heads, so that tp x sp has to divide them, not only tp and sp."""
    sizes, counts = {"tp": setup.tp, "sp": setup.sp}, (setup.shape.num_heads, setup.shape.num_kv_heads)
    if any(count % size for count in counts for size in sizes.values()):
        return
    for count, kind in zip(counts, ("attention", "key/value"), strict=True):
        if count % (setup.tp * setup.sp):
            works = {
                name: [n for n in divisors(count // other) if all(c % (n * other) == 0 for c in counts)]
                for name, other in (("tp", setup.sp), ("sp", setup.tp))
            }
            works["sp"] = [n for n in works["sp"] if setup.seq_len % n == 0]
            use = ", or ".join(f"{name}={choice(_that_divide(setup, name, sizes))}" for name, sizes in works.items())
            yield Fault("heads", f"tp={setup.tp} x sp={setup.sp} does not divide {count} {kind} heads; use {use}")
            return


def interleaving_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """Faults in vpp: interleaved schedules run pp micro-batches at a time through chunks of equal size."""
    vpp, pp, layers = setup.vpp, setup.pp, setup.shape.num_layers
    if vpp == 1:
        return
    if "vpp" not in ENGINES[engine].degrees:
        yield lacks(f"vpp={vpp}: engine {engine} has no {DEGREES['vpp']}; use vpp=1 or engine=mcore")
    elif pp == 1:
        yield rule(f"vpp={vpp} interleaves the chunks of several stages, pp is 1; use vpp=1 or pp=2 and more")
    elif vpp not in (works := chunk_counts(layers, pp)):
        yield Fault("layers", f"pp={pp} x vpp={vpp} does not divide {layers} layers; use vpp={choice(works)}")
    elif setup.stages and setup.stages != (even := tuple(split_layers(layers, pp, rule="even"))):
        use = f"vpp=1, or stages={stages_words(even)}"
        yield Fault("layers", f"stages={stages_words(setup.stages)}: chunks of vpp={vpp} are of one size; use {use}")
    elif setup.grad_accum % pp:
        needs = f"vpp={vpp} needs micro-batches in groups of pp={pp}, there are {setup.grad_accum} per step"
        yield Fault("batch", f"{needs}; use vpp=1 or a grad_accum of {nearest(setup.grad_accum, pp)}")


def state_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """Faults in ZeRO stage, offload, checkpointing and method."""
    rules, stage, offload = ENGINES[engine], setup.zero_stage, setup.offload
    if setup.method not in rules.methods:
        yield lacks(f"method={setup.method}: engine {engine} has {choice(rules.methods)}; use engine=zero")
    yield from map(rule, quantised_faults(setup))
    yield from map(rule, mixed_faults(setup))
    if setup.mixed not in rules.mixed:
        yield lacks(f"mixed={setup.mixed}: engine {engine} has {choice(rules.mixed)}; use it, or engine=zero")
    yield from _optimizer_faults(engine, setup)
    if setup.checkpointing not in rules.checkpointing:
        known = choice(rules.checkpointing)
        yield lacks(f"activation_checkpointing={setup.checkpointing}: engine {engine} has {known}; use one of them")
    if stage not in rules.zero:
        able = choice(list(rules.zero))
        yield rule(f"zero_stage={stage}: engine {engine} runs zero_stage={able} only; use zero_stage={able}")
        return
    if setup.tp > 1 and stage not in rules.tp_zero:
        yield rule(f"zero_stage={stage} with tp={setup.tp}: use zero_stage={choice(rules.tp_zero)}, or tp=1")
    if offload not in rules.zero[stage]:
        yield rule(_offload_words(engine, offload, stage))
    if offload != "none" and setup.offload_to == "nvme" and stage not in rules.nvme:
        works = f"zero_stage={choice(rules.nvme)} or offload_to=cpu" if rules.nvme else "offload_to=cpu"
        yield rule(f"offload_to=nvme: engine {engine} cannot with zero_stage={stage}; use {works}")


def _optimizer_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """What an optimizer asks of the layout: whole tensors, a GPU, states that it keeps itself."""
    name, able = setup.optimizer, ENGINES[engine].optimizers
    kind, given = OPTIMIZERS[name], f"optimizer={setup.optimizer}"
    if name not in able:
        yield lacks(f"{given}: engine {engine} has {choice(able)}; use one of them, or engine=zero")
        return
    if kind.gpu_only and setup.cluster.device.kind == "cpu":
        yield rule(f"{given} pages its states out of GPU memory, there is no GPU; use optimizer=adamw")
    if kind.whole and setup.zero_stage == 3:
        yield rule(f"{given} needs whole matrices, zero_stage=3 divides every one; use zero_stage=0, 1 or 2")
    if kind.whole and setup.tp > 1:
        yield rule(f"{given} needs whole matrices, tp={setup.tp} divides them; use tp=1, or optimizer=adamw")
    by_number = [other for other, facts in OPTIMIZERS.items() if not facts.whole and facts.library != "bitsandbytes"]
    if setup.offload != "none" and name not in by_number:
        yield rule(f"{given} keeps its states on the device; use offload=none, or optimizer={choice(by_number)}")
    if setup.offload != "none" and setup.offload_to == "nvme" and name != "adamw":
        yield rule(f"{given}: states on a disk are AdamW's; use offload_to=cpu, or optimizer=adamw")


def _offload_words(engine: EngineName, offload: Offload, stage: int) -> str:
    known = ENGINES[engine].zero
    able = [stage for stage, offloads in known.items() if offload in offloads]
    if not able:
        works = choice(list(dict.fromkeys(itertools.chain(*known.values()))))
        return f"offload={offload}: engine {engine} runs offload={works} only; use offload={works}"
    if offload == "all":
        return f"offload=all needs ZeRO-3, the stage that shards weights, not zero_stage={stage}; use zero_stage=3"
    works = choice(able)
    return f"offload=optimizer needs sharded optimizer states, not zero_stage={stage}; use zero_stage={works}"


def _blocks(setup: Setup) -> int:
    """Tokens of the shortest sequence that context-parallel and tensor-parallel ranks can divide between them."""
    pair = 2 if setup.cp > 1 else 1
    return setup.cp * (math.lcm(setup.tp, pair) if setup.tp_sequence else pair)


def _lengths(setup: Setup, step: int) -> str:
    return f"use seq_len={nearest(setup.seq_len, step)}"
