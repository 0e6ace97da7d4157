"""Peak resident memory of each rank while a checkpoint is read, by layout, against one process that reads all of it.

Random weights of a real shape in fp32 are written to a temporary folder first (4 bytes per parameter of free disk).
It starts its own processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {"zero_stage": 1}),
    "ZeRO-3, dp 2": (2, {"zero_stage": 3}),
    "tp 2": (2, {"zero_stage": 1, "tp": 2}),
    "pp 2": (2, {"pp": 2}),
}


def main() -> None:
    """Every layout in turn (plain call), or one rank of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tinyllama-1.1b", help="catalog name of the shape")
    parser.add_argument("run", nargs="?", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        measure(args.run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_model(args.model, folder / "model")
        whole = 0
        for layout, (ranks, choices) in LAYOUTS.items():
            peaks = peaks_of(folder, ranks, choices)
            whole = whole or peaks[0]
            gib = ", ".join(f"{peak / 2**30:.2f}" for peak in peaks)
            print(f"{layout:14s} peak GiB {gib}; largest / one process {max(peaks) / whole:.2f}", flush=True)


def write_random_model(shape: str, folder: Path) -> None:
    """A checkpoint that nobody has trained, in one file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from toolkit.specs.model import ModelSpec

    spec = ModelSpec.resolve(shape)
    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        tie_word_embeddings=spec.tied_embeddings,
        dtype=torch.float32,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100GB")


def peaks_of(folder: Path, ranks: int, choices: dict[str, Any]) -> list[int]:
    """Peak resident bytes of every rank."""
    import toolkit
    from toolkit.specs.cluster import ClusterSpec

    cpus = ClusterSpec.resolve(f"{ranks}xcpu")
    # Nothing is trained: the states that a plan counts need no room.
    roomy = cpus.model_copy(update={"device": cpus.device.model_copy(update={"memory_bytes": 2**40})})
    roomy = roomy.model_copy(update={"host_memory_bytes": ranks * 2**40})
    plan = toolkit.plan(folder / "model", roomy, seq_len=128, global_batch=8, precision="fp32", **choices)
    recipe = toolkit.Recipe.parse({"model": plan.model.name, "workload": plan.workload.model_dump()}, source="here")
    run = toolkit.emit(plan, folder / "run", recipe, overwrite=True)
    words = [str(Path(sys.executable).with_name("torchrun")), f"--nproc-per-node={ranks}", __file__, str(run)]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    return [json.loads((run / f"{rank}.json").read_text()) for rank in range(ranks)]


def measure(folder: Path) -> None:
    """Read this rank's part as the engines do; its peak goes into a file of the run folder."""
    from toolkit.engines.ds import processes
    from toolkit.engines.ds.config import load_ds_config
    from toolkit.engines.pipeline.module import pipeline_module, topology_of
    from toolkit.engines.zero.assemble import assemble
    from toolkit.models.build import build_model
    from toolkit.planner.plan import Plan
    from toolkit.run_folder import RunFolder
    from toolkit.specs.recipe import Recipe
    from toolkit.training.memory import peak_resident_bytes

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    model, config = build_model(plan, recipe), load_ds_config(run, plan)
    if plan.strategy.engine == "zero":
        processes.start(config, plan)
        assemble(model, config, plan=plan)
    else:
        processes.join(plan)
        pipeline_module(model, topology=topology_of(plan), stages=plan.strategy.stages, loss=lambda a, _: a)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(peak_resident_bytes()))


if __name__ == "__main__":
    main()
