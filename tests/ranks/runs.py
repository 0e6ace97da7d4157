"""What the ranks of a test run: a planned and emitted run folder through the public engine."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

import toolkit
from procs import run_ranks
from ranks.settings import (
    BY_NORM,
    CLIP,
    GLOBAL_BATCH,
    LEARNING_RATES,
    LORA_ALPHA,
    LORA_RANK,
    LORA_TARGETS,
    SEED,
    SYNCHRONOUS,
    WEIGHT_DECAY,
)
from ranks.tiny import EOS, PAD, SEQ_LEN, training_rows
from toolkit.data.loader import GlobalBatches, Share
from toolkit.engines import Engine, engine_for
from toolkit.engines.base import StepResult
from toolkit.finetune import main
from toolkit.models.build import build_model
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.clipping import ClippingConfig
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.lora import LoraConfig
from toolkit.specs.optimizer import OptimizerConfig, OptimizerName
from toolkit.specs.recipe import Recipe
from toolkit.training.memory import disk_traffic

ALL_DECAY = OptimizerConfig(weight_decay=WEIGHT_DECAY, decay_all=True)


def write_run(
    folder: Path,
    model: Path,
    *,
    cluster: str = "2xcpu",
    global_batch: int = GLOBAL_BATCH,
    optimizer: OptimizerConfig = ALL_DECAY,
    optimizer_name: OptimizerName = "adamw",
    clipping: ClippingConfig = BY_NORM,
    communication: CommunicationConfig = SYNCHRONOUS,
    lora: Mapping[str, Any] = MappingProxyType({}),
    neftune_alpha: float | None = None,
    **choices: Any,
) -> Path:
    """Plan and emit; `lora` as in a recipe, `choices` as for `toolkit.plan`."""
    wanted = {"precision": "fp32", "micro_batch": 2, "activation_checkpointing": "none", **choices}
    on_deepspeed = wanted.get("engine") != "mcore"
    if on_deepspeed and wanted["precision"] == "fp16" and not CPU_Accelerator().is_fp16_supported():
        pytest.skip("this processor has no products in fp16, and DeepSpeed refuses it")
    plan = toolkit.plan(
        model,
        cluster,
        seq_len=SEQ_LEN,
        global_batch=global_batch,
        gradient_clipping=CLIP,
        lora_rank=LORA_RANK,
        optimizer=optimizer_name,
        **wanted,
    )
    recipe = Recipe(
        model=str(model),
        workload=plan.workload,
        optimizer=optimizer,
        neftune_alpha=neftune_alpha,
        clipping=clipping,
        communication=communication,
        lora=LoraConfig(alpha=LORA_ALPHA, targets=LORA_TARGETS, **lora),
        seed=SEED,
    )
    return toolkit.emit(plan, folder, recipe)


@contextmanager
def edited_ds_config(folder: Path) -> Iterator[dict[str, Any]]:
    """The content of ds_config.json, written back on leaving, as a user's editor would."""
    path = RunFolder(folder).ds_config
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def open_engine(folder: Path) -> Engine:
    """What finetune.py does between reading the files and the first batch."""
    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(plan, recipe)
    return engine_for(plan, recipe, model=model, folder=run)


def batches_of(folder: Path, engine: Engine) -> GlobalBatches:
    """The rows of `tiny.training_rows` in this rank's order."""
    plan = Plan.load(RunFolder(folder).plan)
    strategy = plan.strategy
    share = Share(strategy.layout.dp, engine.data_rank, strategy.micro_batch, strategy.grad_accum)
    batches = GlobalBatches(training_rows(plan.model.vocab_size), share, seed=SEED, pad_token_id=PAD)
    noised = Recipe.load(RunFolder(folder).recipe).neftune_alpha is not None
    return batches.with_noise_seeds() if noised else batches


def divide_everything(folder: Path) -> None:
    """Let ZeRO-3 keep no weight whole, however small; those of these models are all smaller than what it keeps."""
    with edited_ds_config(folder) as content:
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 0


@dataclass(frozen=True)
class Trained:
    """A run as one rank saw it."""

    steps: list[StepResult]
    weights: dict[str, torch.Tensor]
    """All of them, after the last step; only on rank 0."""


def train(folder: Path) -> Trained:
    """All steps of a run."""
    engine = open_engine(folder)
    batches = batches_of(folder, engine)
    results = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    weights = dict(engine.full_state())
    engine.close()
    return Trained(results, weights)


def train_and_look_at_the_disk(folder: Path) -> tuple[Trained, int, int, int]:
    """As `train`; bytes read from disks and written to them, and those in the swap folder at its fullest."""
    rank, largest = os.environ["RANK"], 0
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.02):
            files = [path for path in (folder / "offload").glob(f"zero_stage_3/*/rank{rank}/*") if path.is_file()]
            largest = max(largest, sum(path.stat().st_size for path in files))

    before, watcher = disk_traffic(), threading.Thread(target=watch)
    watcher.start()
    trained = train(folder)
    done.set()
    watcher.join()
    read, written = (after - first for after, first in zip(disk_traffic(), before, strict=True))
    return trained, read, written, largest


def finetune(folder: Path) -> None:
    """The whole of finetune.py, in processes that have their imports behind them."""
    run = RunFolder(folder)
    with mock.patch.object(sys, "argv", ["finetune.py", "--recipe", str(run.recipe), "--plan", str(run.plan)]):
        main()


def in_warm_ranks(folder: Path) -> None:
    """As `toolkit.launch`, without 15 s of imports."""
    world_size = Plan.load(RunFolder(folder).plan).world_size
    run_ranks(finetune, world_size, folder, timeout_s=120)


def tell(folder: Path) -> tuple[int, tuple[str, ...]]:
    """ZeRO stage that DeepSpeed runs, and the engine's notes."""
    engine: Any = open_engine(folder)
    stage = engine._engine.zero_optimization_stage()
    engine.close()
    return int(stage), engine.notes


def open_with_another_release(folder: Path, elsewhere: Path) -> None:
    """`open_engine`, where rank 1 finds a library in `elsewhere` first."""
    if dist.get_rank() == 1:
        sys.path.insert(0, str(elsewhere))
    open_engine(folder).close()


@dataclass(frozen=True)
class Held:
    """Types of numbers in a run, after its first step."""

    note: str
    """What the engine said of them at the start."""
    optimizer: set[torch.dtype]
    """Its weights and moments."""
    answering: set[torch.dtype]
    """Logits that answers are chosen from."""


def types_held(folder: Path) -> Held:
    """One step and an answer, with a look at the numbers."""
    engine: Any = open_engine(folder)
    batch = batches_of(folder, engine).step(0)
    engine.train_step(batch, learning_rate=LEARNING_RATES[0])
    held = {tensor.dtype for _, states in engine.states() for tensor in states.values()}
    seen: set[torch.dtype] = set()
    heads = [module for name, module in engine._engine.module.named_modules() if name.endswith("lm_head")]
    heads[0].register_forward_hook(lambda _module, _given, logits: seen.add(logits.dtype))
    turned = {"input_ids": batch[0]["input_ids"][:, :4], "attention_mask": batch[0]["attention_mask"][:, :4]}
    engine.generate([turned], max_new_tokens=1, stop_token_ids=[EOS])
    engine.close()
    return Held(next(note for note in engine.notes if note.startswith("numbers: ")), held, seen)


def train_without(part: str, instead: Any, folder: Path) -> list[StepResult]:
    """As `train`, with a function (or a method of a class, by its full name) that does nothing but return `instead`."""
    with mock.patch(part, return_value=instead):
        return train(folder).steps
