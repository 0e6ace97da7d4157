"""One rank of a run of transformers' Trainer or TRL's SFTTrainer, which benchmarks/trainers.py starts with torchrun."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train as settings.json says; what was measured goes into a file per rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=("transformers", "trl"))
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    given = json.loads((args.run / "settings.json").read_text())

    # On a CPU accelerate starts no process group of its own: without these each rank would train a model alone.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    from accelerate import PartialState

    PartialState(backend="gloo")
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """When each step was over."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    clock = Clock()
    trainer = (trl_trainer if args.trainer == "trl" else plain_trainer)(given, args.run, callbacks=[clock])
    counting = Counting(trainer.data_collator)
    trainer.data_collator = counting
    if (ranks := trainer.accelerator.num_processes) != given["ranks"]:
        raise SystemExit(f"{ranks} process(es) train together, needs {given['ranks']}")
    trainer.train()

    from toolkit.training.memory import peak_resident_bytes

    logged = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    found = {"ends": clock.ends, "steps": counting.steps(given), "logged": logged, "peak": peak_resident_bytes()}
    (args.run / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(found))


class Counting:
    """A trainer's collator, with a note of what each micro-batch holds."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator
        self._held: list[tuple[int, int, int]] = []

    def __call__(self, rows: Any) -> Any:
        """The micro-batch of these rows."""
        batch = self._collator(rows)
        positions = batch["input_ids"].numel()
        # Where rows follow each other without padding there is no mask.
        tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else positions
        self._held.append((int((batch["labels"][:, 1:] != -100).sum()), tokens, positions))
        return batch

    def steps(self, given: dict[str, Any]) -> list[list[int]]:
        """Supervised tokens, tokens and positions of each step of this rank."""
        accum = given["grad_accum"]
        micros = (self._held[step * accum : (step + 1) * accum] for step in range(given["max_steps"]))
        return [[sum(counts) for counts in zip(*micro, strict=True)] for micro in micros]


def plain_trainer(given: dict[str, Any], run: Path, *, callbacks: list[Any]) -> Any:
    """transformers' own."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    collator = DataCollatorForSeq2Seq(tokenizer)  # pads to the longest row, labels with -100
    settings = TrainingArguments(**arguments(given, run))
    return Trainer(
        model=model(given), args=settings, train_dataset=rows(given), data_collator=collator, callbacks=callbacks
    )


def trl_trainer(given: dict[str, Any], run: Path, *, callbacks: list[Any]) -> Any:
    """TRL's; it computes activations again in the backward pass and in bf16 unless told not to."""
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        **arguments(given, run),
        gradient_checkpointing=False,
        bf16=False,
        max_length=given["seq_len"],
        packing=given["packing"],
    )
    return SFTTrainer(
        model=model(given),
        args=settings,
        train_dataset=rows(given),
        processing_class=AutoTokenizer.from_pretrained(given["model"]),
        callbacks=callbacks,
    )


def arguments(given: dict[str, Any], run: Path) -> dict[str, Any]:
    """What both trainers take: the toolkit's run, in their words."""
    return {
        "output_dir": str(run / "output"),
        "deepspeed": given["ds_config"],
        "accelerator_config": {"use_configured_state": True},
        "per_device_train_batch_size": given["micro_batch"],
        "gradient_accumulation_steps": given["grad_accum"],
        "max_steps": given["max_steps"],
        # The rows lie in the order in which the toolkit takes them; packs come longest first, so that they are mixed.
        "train_sampling_strategy": "random" if given["packing"] else "sequential",
        "learning_rate": given["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_first_step": True,
        "logging_steps": given["log_every"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 42,
    }


def model(given: dict[str, Any]) -> Any:
    """As the toolkit has it: fp32, torch's own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32, attn_implementation="sdpa")


def rows(given: dict[str, Any]) -> Any:
    """Token ids and labels, as the toolkit has made them."""
    from datasets import load_from_disk

    return load_from_disk(given["rows"])


if __name__ == "__main__":
    main()
