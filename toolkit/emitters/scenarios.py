"""The files of ds_configs/: named situations, the `toolkit plan` line of each, and the configuration it gives.

`python -m toolkit.emitters.scenarios ds_configs` writes them again.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from toolkit.emitters.ds_config import ds_config
from toolkit.planner.plan import Plan
from toolkit.planner.search import Fixed, make_plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


class Scenario(NamedTuple):
    """One file of ds_configs/."""

    file: str
    """Name of the file."""
    what_for: str
    """When to take it."""
    model: str
    """Catalog name."""
    cluster: str
    """Catalog name."""
    workload: Workload
    """Sequence length, global batch, precision and method."""
    fixed: Fixed = Fixed()
    """What the line decides; the planner decides the rest."""

    def plan(self) -> Plan:
        """The plan that the file is emitted from."""
        model, cluster = ModelSpec.resolve(self.model), ClusterSpec.resolve(self.cluster)
        return make_plan(model, cluster, self.workload, fixed=self.fixed)

    def command(self) -> str:
        """The `toolkit plan` line that gives this configuration."""
        workload = self.workload
        words = ["toolkit", "plan", "--model", self.model, "--cluster", self.cluster]
        words += ["--seq-len", str(workload.seq_len), "--global-batch", str(workload.global_batch)]
        words += ["--precision", workload.precision]
        if workload.mixed != "master":
            words += ["--mixed", workload.mixed]
        if workload.method != "full":
            words += ["--method", workload.method, "--lora-rank", str(workload.lora_rank)]
        if workload.optimizer != "adamw":
            words += ["--optimizer", workload.optimizer]
        return shlex.join([*words, *self.fixed.options()])


def _work(seq_len: int, global_batch: int, **rest: object) -> Workload:
    return Workload.model_validate({"seq_len": seq_len, "global_batch": global_batch, **rest})


SCENARIOS = (
    Scenario(
        "zero0_fp32_smollm_135m_8xA100.json",
        "small models in full fp32: plain data parallelism",
        "smollm-135m",
        "8xA100-80GB",
        _work(2048, 64, precision="fp32"),
        Fixed(zero_stage=0),
    ),
    Scenario(
        "zero1_bf16_llama3.2_1b_4xL40S.json",
        "about a billion parameters: only the optimizer states are sharded",
        "llama-3.2-1b",
        "4xL40S",
        _work(2048, 64),
        Fixed(engine="zero", zero_stage=1),
    ),
    Scenario(
        "zero2_bf16_llama3.1_8b_8xA100.json",
        "7B to 8B on one node: gradients sharded too",
        "llama-3.1-8b",
        "8xA100-80GB",
        _work(4096, 64),
        Fixed(zero_stage=2),
    ),
    Scenario(
        "zero2_fp16_tinyllama_8xV100.json",
        "devices without bf16: fp16 with a dynamic loss scale",
        "tinyllama-1.1b",
        "8xV100-32GB",
        _work(2048, 128, precision="fp16"),
        Fixed(zero_stage=2),
    ),
    Scenario(
        "zero2_offload_optimizer_llama2_7b_4xA100_40GB.json",
        "optimizer states in host memory: 7B on four 40 GB cards",
        "llama-2-7b",
        "4xA100-40GB",
        _work(2048, 64),
        Fixed(zero_stage=2, offload="optimizer"),
    ),
    Scenario(
        "zero3_bf16_llama2_13b_8xA100.json",
        "weights sharded as well: 13B on one node",
        "llama-2-13b",
        "8xA100-80GB",
        _work(4096, 64),
        Fixed(zero_stage=3, tp=1, sp=1),
    ),
    Scenario(
        "zero2_tp2_bf16_llama2_13b_8xA100.json",
        "tensor parallelism: every layer divided over two devices",
        "llama-2-13b",
        "8xA100-80GB",
        _work(4096, 64),
        Fixed(zero_stage=2, tp=2),
    ),
    Scenario(
        "zero3_sp8_bf16_llama3.1_8b_8xH100.json",
        "sequence parallelism: sequences of 131,072 tokens over one node",
        "llama-3.1-8b",
        "8xH100-80GB",
        _work(131_072, 8),
        Fixed(zero_stage=3, sp=8),
    ),
    Scenario(
        "pipeline_bf16_llama2_13b_8xA100.json",
        "a pipeline of two stages",
        "llama-2-13b",
        "8xA100-80GB",
        _work(4096, 64),
        Fixed(engine="pipeline", pp=2),
    ),
    Scenario(
        "zero3_bf16_llama3.1_70b_4x8xH100.json",
        "70B over several nodes",
        "llama-3.1-70b",
        "4x8xH100-80GB",
        _work(4096, 128),
        Fixed(zero_stage=3),
    ),
    Scenario(
        "zero3_offload_all_llama2_13b_8xRTX4090.json",
        "weights and optimizer states in host memory: 13B on 24 GB cards",
        "llama-2-13b",
        "8xRTX4090-24GB",
        _work(2048, 64),
        Fixed(zero_stage=3, offload="all"),
    ),
    Scenario(
        "lora_bf16_llama3.1_8b_2xRTX4090.json",
        "LoRA of 8B on two 24 GB cards",
        "llama-3.1-8b",
        "2xRTX4090-24GB",
        _work(2048, 32, method="lora", lora_rank=16),
        Fixed(engine="zero"),
    ),
    Scenario(
        "lora_zero3_bf16_llama3.1_70b_8xA100.json",
        "LoRA of 70B: the frozen weights are sharded",
        "llama-3.1-70b",
        "8xA100-80GB",
        _work(4096, 64, method="lora", lora_rank=16),
        Fixed(zero_stage=3, sp=1),
    ),
    Scenario(
        "cpu_fp32_smollm_135m_2xcpu.json",
        "two processes without a GPU, to try a run",
        "smollm-135m",
        "2xcpu",
        _work(512, 8, precision="fp32"),
    ),
)


def write_ds_configs(folder: Path) -> list[Path]:
    """Write every scenario's JSON and the README that lists them; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {scenario.file: json.dumps(ds_config(scenario.plan()), indent=2) + "\n" for scenario in SCENARIOS}
    texts["README.md"] = _readme()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _readme() -> str:
    rows = [f"| [{s.file}]({s.file}) | {s.what_for} | `{s.command()}` |" for s in SCENARIOS]
    return "\n".join(
        [
            "# DeepSpeed configurations",
            "",
            "Each file is the `ds_config.json` that its `toolkit plan` line writes (with `-o FOLDER`), every number",
            "resolved. They are examples to read: for a run of your own give the line your model, cluster and batch,",
            "and launch what it writes. Made by `python -m toolkit.emitters.scenarios ds_configs`; a test compares",
            "them byte for byte.",
            "",
            "| file | for | made by |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    write_ds_configs(Path(sys.argv[1]))
