"""Training on 4-bit weights on the CPU, which the product leaves to GPUs."""

import functools
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ranks.by_hand import norm_clipped
from ranks.reference import Reference, global_batches, train_in_one_process
from ranks.runs import Trained, batches_of
from ranks.settings import CLIP, LEARNING_RATES, LORA_ALPHA, LORA_RANK, LORA_TARGETS, SEED
from toolkit.engines import engine_for
from toolkit.models.lora import add_lora
from toolkit.models.pretrained import load_pretrained
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


def train_in_4_bits(folder: Path) -> tuple[Trained, set[torch.dtype]]:
    """All steps of a LoRA run, its layers quantised as `build_model` does it; types of what the rank holds."""
    from toolkit.models.quantised import quantise_layers

    run = RunFolder(folder)
    plan, recipe = Plan.load(run.plan), Recipe.load(run.recipe)
    torch.manual_seed(recipe.seed)
    model = load_pretrained(recipe.model, plan.model, precision=plan.workload.precision)
    quantise_layers(model, double=True)
    model.module = add_lora(model.module, recipe.lora, rank=plan.workload.lora_rank, checkpointed=False)
    engine = engine_for(plan, recipe, model=model, folder=run)
    batches = batches_of(folder, engine)
    steps = [engine.train_step(batches.step(index), learning_rate=rate) for index, rate in enumerate(LEARNING_RATES)]
    weights = dict(engine.full_state())
    dtypes = {parameter.dtype for parameter in model.module.parameters()}
    engine.close()
    return Trained(steps, weights), dtypes


def reference_in_4_bits(folder: Path) -> Reference:
    """The same by transformers and peft."""
    kind = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=kind, device_map="cpu"
    )
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")
    torch.manual_seed(SEED)
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    steps = [[batch] for batch in global_batches(len(LEARNING_RATES))]
    clip = functools.partial(norm_clipped, largest=CLIP)
    return Reference(tuple(train_in_one_process(model, steps, clip=clip)), model)
