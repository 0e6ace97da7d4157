"""Which framework profile describes a published run: by the words of its framework, else by how it shards."""

import re

from toolkit.planner.profile import Profile, profiles
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.wording import zero_stage

PROFILE_WORDS = (
    (r"unsloth\b", "unsloth"),
    (r"nanotron.*bench_cluster|nanotron.*2024", "nanotron-2024"),
    (r"nanotron", "nanotron"),
    (r"torchtitan", "torchtitan"),
    (r"megatron.?deepspeed|vtrain", "megatron-deepspeed"),
    (r"automodel", "hf-fsdp"),
    (r"kwai", "megatron-unfused"),
    (r"megatron|\bnemo(?!tron)|mcore|simumax", "megatron"),
    (r"fsdp.?qlora", "hf-fsdp"),
    (r"hugging ?face|\bhf\b|accelerate|transformers\b|\btrl\b|\bpeft\b", "Hugging Face"),
    (r"transformer.?engine", "megatron"),
    (r"internevo|internlm", "internevo"),
    (r"torchtune|torchao", "torchtune"),
    (r"llm-foundry|composer|\bfms|foundation.model.stack|fsdp1", "fsdp"),
    (r"", "Hugging Face"),
)
"""The first pattern that the framework's name matches says which profile describes a run; Hugging Face has several."""

HF_PROFILES = (
    (r"deepspeed|\bzero(?!band)|arctic|xtuner|alst|easycontext", "hf-deepspeed"),
    (r"fsdp", "hf-fsdp"),
)
"""The same among Hugging Face's: by the engine that the name or else the ZeRO stage's cell mentions."""
LOOP = r"plain.*loop|lit-?gpt|lit-llama"
"""Loops of their own around a Hugging Face model, or one that keeps the same."""

DATED = {("torchtitan", "2024"): "torchtitan-2024"}
"""Profiles of a framework's older versions: by the year in the source's file name."""


def profile_of(run: MeasuredRun) -> Profile:
    """The profile of a row; frameworks of which nothing is known count as Hugging Face's loop with their sharding."""
    columns = ("framework", "group", "source")
    named = next(
        name
        for words, name in PROFILE_WORDS
        if run.affirms(words, *(columns if name == "megatron-unfused" else columns[:1]))
    )
    if named == "Hugging Face":
        named = _hugging_face(run)
    # A year in the file's name, as llama3_h100_202412_torchtitan.md; not digits of a commit.
    file_name = re.split(r"[:/]", run.text("source"))[-1]
    year = re.search(r"(?<!\d)20\d\d", file_name)
    return profiles()[DATED.get((named, year[0]), named) if year else named]


def _hugging_face(run: MeasuredRun) -> str:
    for cell in ("framework", "zero_stage"):
        for words, name in HF_PROFILES:
            if run.affirms(words, cell):
                return name
    if run.affirms(LOOP, "framework"):
        return "hf-loop"
    # One rank, so that a stage that is not stated is not taken for one.
    return "hf-deepspeed" if zero_stage(run, 1) >= 1 else "hf-trainer"
