"""Changes that the planner names where nothing fits: each, made as it is told, gives what is told."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import NoFeasiblePlan, SpecError
from toolkit.planner.api import estimate, plan
from toolkit.planner.plan import Plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import human_seconds, parse_bytes

FIELDS = {"zero": "zero_stage", "checkpointing": "activation_checkpointing"}
"""Options whose field has another name."""
LINE = re.compile(r"(?:cheapest change that|also) helps: (.*): (?:(.*), )?([^,]*) per step")


def told(lines: list[str]) -> list[tuple[str, str, str]]:
    """(change, strategy, seconds) of every line that names a change."""
    found = [LINE.fullmatch(line) for line in lines if "helps: " in line]
    assert all(found), lines
    return [(match[1], match[2] or "", match[3]) for match in found if match]


def changed(words: str, question: dict[str, Any]) -> dict[str, Any]:
    """The question with one told change made: options put in, decisions left out, other work or machines."""
    work, cluster, fixed = dict(question["work"]), question["cluster"], dict(question["fixed"])
    for part in words.split(", and "):
        if match := re.fullmatch(r"seq_len (\d+) instead of \d+", part):
            work["seq_len"] = int(match[1])
        elif part == "loss chunked instead of full":
            work["loss"] = "chunked"
        elif match := re.match(r"(Q?LoRA) of rank (\d+)", part):
            work |= {"method": match[1].lower(), "lora_rank": int(match[2])}
        elif match := re.match(r"(\d+) nodes instead", part):
            cluster = cluster.model_copy(update={"num_nodes": int(match[1])})
        elif match := re.match(r"(.*) of host memory per node", part):
            cluster = cluster.model_copy(update={"host_memory_bytes": round(parse_bytes(match[1]) * 1.05)})
        elif match := re.fullmatch(r"leave (.*) to the planner", part):
            for pin in match[1].split(", "):
                del fixed[pin.partition("=")[0]]
        else:
            options = part.split()
            for option, value in zip(options[::2], options[1::2], strict=True):
                name = option.removeprefix("--").replace("-", "_")
                fixed[FIELDS.get(name, name)] = int(value) if value.isdigit() else value
    return {"work": work, "cluster": cluster, "fixed": fixed}


def estimated(question: dict[str, Any], model: str) -> Plan:
    return estimate(model, question["cluster"], work=question["work"], strategy=question["fixed"])


@settings(max_examples=30, deadline=None)
@given(
    model=st.sampled_from(["llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"]),
    cluster=st.sampled_from(["1xL4", "8xA100-80GB", "2x8xH100-80GB", "8xV100-32GB"]),
    seq_len=st.sampled_from([2048, 16384]),
    fixed=st.fixed_dictionaries(
        {},
        optional={
            "zero_stage": st.sampled_from([1, 2, 3]),
            "micro_batch": st.sampled_from([1, 4]),
            "activation_checkpointing": st.sampled_from(["none", "full"]),
            "offload": st.sampled_from(["none", "optimizer"]),
            "tp": st.sampled_from([1, 4]),
            "pp": st.sampled_from([1, 2]),
            "vpp": st.sampled_from([1, 2]),
        },
    ),
)
def test_options_that_are_named_fit_when_typed(model: str, cluster: str, seq_len: int, fixed: dict[str, Any]) -> None:
    question = {
        "work": {"seq_len": seq_len, "global_batch": 64, "precision": "fp16"},
        "cluster": ClusterSpec.resolve(cluster),
        "fixed": fixed,
    }
    try:
        made = estimated(question, model)
    except SpecError:
        return
    if made.reasons[0].startswith("It fits"):
        return
    for words, _, seconds in told(list(made.reasons[1:])) if "no single change" not in made.reasons[1] else []:
        again = estimated(changed(words, question), model)
        assert again.reasons[0].startswith("It fits"), (words, made.reasons)
        assert human_seconds(again.time.step_seconds) == seconds


@pytest.mark.parametrize(
    ("model", "cluster", "fixed"),
    [
        ("llama-3.1-8b", "8xA100-80GB", {"micro_batch": 32, "activation_checkpointing": "none", "tp": 2}),
        ("llama-2-13b", "8xRTX4090-24GB", {"zero_stage": 1, "pp": 1, "tp": 1}),
        ("llama-3.1-8b", "2xRTX4090-24GB", {"zero_stage": 0}),
        ("llama-3.1-8b", "2xRTX4090-24GB", {"zero_stage": 1}),
        ("llama-3.1-70b", "8xA100-80GB", {"offload": "none"}),
        ("llama-3.1-70b", "1xL4", {}),
        ("llama-3.1-70b", "2x8xV100-32GB", {"offload": "none"}),
        ("llama-3.1-70b", "8xA100-40GB", {"engine": "mcore"}),
    ],
)
def test_changes_that_are_named_give_the_plan_that_is_told(model: str, cluster: str, fixed: dict[str, Any]) -> None:
    machines = ClusterSpec.resolve(cluster)
    precision = "bf16" if machines.device.supports_bf16 else "fp16"
    question = {
        "work": {"seq_len": 4096, "global_batch": 64, "precision": precision},
        "cluster": machines,
        "fixed": fixed,
    }
    with pytest.raises(NoFeasiblePlan) as failure:
        plan(model, machines, **question["work"], **fixed)
    changes = told(str(failure.value).splitlines())
    assert changes
    for words, strategy, seconds in changes:
        asked = changed(words.removesuffix(", planned only as this release cannot run it"), question)
        made = plan(model, asked["cluster"], **asked["work"], **asked["fixed"])
        assert made.strategy.words == strategy
        assert human_seconds(made.time.step_seconds) == seconds


def test_host_memory_of_a_strategy_that_is_not_the_nearest_is_tried_too() -> None:
    with pytest.raises(NoFeasiblePlan) as failure:
        plan("llama-3.1-70b", "1xL4", seq_len=4096, global_batch=64)
    first = str(failure.value).splitlines()[1]
    pattern = (
        r"cheapest change that helps: 1\.\d TiB of host memory per node instead of [\d.]+ GiB: ZeRO-3, offload all"
    )
    assert re.match(pattern, first), first


@pytest.mark.parametrize(
    ("model", "cluster", "fixed", "line"),
    [
        ("llama-3.1-8b", "8xA100-80GB", {"zero_stage": 2, "micro_batch": 8}, "--micro-batch [124]"),
        ("llama-2-13b", "8xA100-40GB", {"activation_checkpointing": "full"}, "--zero 3"),
        ("llama-3.1-70b", "8xH100-80GB", {"zero_stage": 2}, "--zero 3 --checkpointing full --offload optimizer"),
        ("llama-3.1-8b", "1xL4", {"zero_stage": 3}, "--checkpointing full --offload (optimizer|all)|.* host memory .*"),
    ],
)
def test_the_fewest_options_are_named_first(model: str, cluster: str, fixed: dict[str, Any], line: str) -> None:
    made = estimate(model, cluster, work={"seq_len": 4096, "global_batch": 64}, strategy=fixed)
    assert re.fullmatch(rf"cheapest change that helps: ({line}): .* per step", made.reasons[1]), made.reasons
