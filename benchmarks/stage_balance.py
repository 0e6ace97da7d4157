"""Seconds of every pipeline stage, measured and predicted: the plan's split against DeepSpeed's split by parameters.

    python benchmarks/stage_balance.py [--machine machine.yaml] [--stages 4] [--layers 16] [--hidden 512 ...]

Makes a LLaMA with random weights and a head of 32,000 tokens, measures the machine with one rank (`toolkit calibrate`)
unless it is given, and lets every stage work alone, on one thread, through one micro-batch forward and backward, with
the layers of the pipeline engine. A pipeline runs at the pace of its slowest stage: what counts is the slowest over
the mean. Ends with exit status 1 where a stage of the plan is predicted more than 20 % off.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BOUND = 0.20
TURNS = 7
PLANNED = "the plan's split"


def main() -> None:
    """Measure both splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"hidden": 512, "layers": 16, "heads": 8, "kv-heads": 4, "ffn": 1408, "vocab": 32_000}
    for name, value in {**sizes, "seq-len": 256, "micro-batch": 2, "stages": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--machine", type=Path, help="file of an earlier `toolkit calibrate --ranks 1`")
    args = parser.parse_args()
    from toolkit.emitters.command import CPU_ENVIRONMENT

    os.environ |= CPU_ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(1 if compare(args, Path(folder)) else 0)


def compare(args: argparse.Namespace, folder: Path) -> bool:
    """Print a line per stage and split; True where a prediction is out of bounds."""
    machine = args.machine or folder / "machine.yaml"
    if args.machine is None:
        words = ["calibrate", "-o", str(machine), "--ranks", "1", "--precision", "fp32"]
        subprocess.run([sys.executable, "-m", "toolkit", *words], check=True, stdout=subprocess.DEVNULL)
    write_model(args, folder / "model")
    plan = plan_of(args, folder / "model", machine)
    layer, head = predicted(plan)
    splits = {PLANNED: whole_stages(plan.strategy.stages), "by parameters": by_parameters(plan, args.stages)}
    out_of_bounds = False
    for name, stages in splits.items():
        seconds = [measured(folder / "model", plan, parts) for parts in stages]
        expected = [parts.count("layer") * layer + ("head" in parts) * head for parts in stages]
        print(f"{name}: slowest / mean stage {max(seconds) / statistics.mean(seconds):.2f} measured, ", end="")
        print(f"{max(expected) / statistics.mean(expected):.2f} predicted")
        for number, (parts, took, told) in enumerate(zip(stages, seconds, expected, strict=True)):
            # An embedding alone takes next to nothing: there is nothing to predict.
            off = told / took - 1 if told else 0.0
            out_of_bounds |= name == PLANNED and abs(off) > BOUND
            ends = " + ".join(["", *(part for part in parts if part != "layer")])
            print(
                f"  stage {number}: {parts.count('layer'):2d} layers{ends}: {took:.3f} s, predicted {told:.3f}", end=""
            )
            print(f" ({off:+.0%})" if told else "")
    return out_of_bounds


def write_model(args: argparse.Namespace, folder: Path) -> None:
    """Random weights of the given sizes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=args.seq_len,
        dtype=torch.float32,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def plan_of(args: argparse.Namespace, model: Path, machine: Path) -> Any:
    """A pipeline over as many processors like this one as there are stages."""
    from toolkit.planner.api import estimate
    from toolkit.specs.cluster import ClusterSpec

    one = ClusterSpec.resolve(str(machine))
    many = {"gpus_per_node": args.stages, "fast_domain": args.stages}
    cluster = one.model_copy(update={**many, "host_memory_bytes": one.host_memory_bytes * args.stages})
    work = {"seq_len": args.seq_len, "global_batch": 8 * args.micro_batch, "precision": "fp32"}
    layout = {"engine": "pipeline", "pp": args.stages, "micro_batch": args.micro_batch}
    return estimate(model, cluster, work=work, strategy=layout)


def predicted(plan: Any) -> tuple[float, float]:
    """Seconds of a decoder layer, and of head and loss, forward and backward of one micro-batch."""
    from toolkit.planner.cost.estimate import slice_of
    from toolkit.planner.cost.layer import head_of, layer_of
    from toolkit.planner.cost.rates import rates_of
    from toolkit.planner.resolve import setup_of

    setup = setup_of(plan.model, plan.cluster, workload=plan.workload, strategy=plan.strategy)
    rates = rates_of(setup.cluster, setup.profile.time)
    part = slice_of(rates, setup)
    head = head_of(rates, setup.shape, part)
    return layer_of(rates, setup, part).total, head.forward + head.backward


def whole_stages(stages: Sequence[int]) -> list[list[str]]:
    """What each stage holds where embedding and head go with the first and last layers."""
    parts = [["layer"] * count for count in stages]
    return [["embedding", *parts[0]], *parts[1:-1], [*parts[-1], "head"]]


def by_parameters(plan: Any, num_stages: int) -> list[list[str]]:
    """DeepSpeed's `partition_method="parameters"` over embedding, layers and head."""
    from deepspeed.runtime.utils import partition_balanced

    model = plan.model
    row = ["embedding", *["layer"] * model.num_layers, "head"]
    weights = [model.embedding_params, *[model.layer_params] * model.num_layers, model.embedding_params]
    bounds = partition_balanced(weights=weights, num_parts=num_stages)
    return [row[start:stop] for start, stop in itertools.pairwise(bounds)]


def measured(folder: Path, plan: Any, parts: Sequence[str]) -> float:
    """Median seconds of a stage that works alone."""
    import torch

    from toolkit.engines.ds.loss import loss_sum
    from toolkit.models.pretrained import load_pretrained
    from toolkit.models.stages import Body, Embedding, Head, Norm

    torch.set_num_threads(1)
    model = load_pretrained(str(folder), plan.model, precision="fp32")
    shape = (plan.strategy.micro_batch, plan.workload.seq_len)
    ids = torch.randint(plan.model.vocab_size, shape)
    hidden = torch.randn(*shape, plan.model.hidden_size, requires_grad=True)
    positions = torch.arange(shape[1]).repeat(shape[0], 1)
    ends = (Norm(model, model.fill), Head(model, model.fill)) if "head" in parts else ()
    body = Body(model, model.fill, range(parts.count("layer"))).train()
    first = Embedding(model, model.fill) if "embedding" in parts else None

    def once() -> float:
        started = time.perf_counter()
        out, _ = body((hidden, positions) if first is None else first((ids, positions)))
        if ends:
            norm, head = ends
            logits = head.logits(norm((out, positions))).flatten(0, 1)
            loss_sum(logits, ids.flatten(), head.lm_head).backward()  # type: ignore[no-untyped-call]
        else:
            out.backward(torch.ones_like(out))
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(TURNS))


if __name__ == "__main__":
    main()
