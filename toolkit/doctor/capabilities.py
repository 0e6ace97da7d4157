"""What follows from all of it: what this machine can do."""

from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.doctor.finding import Capability, Finding, Section

_GPU_RULES = frozenset({
    "driver-hangs", "driver-fails", "no-driver", "torch-without-cuda", "gpus-missing", "cuda-fails", "no-code-for-gpu",
    "fabric-manager", "nccl-fails", "no-nccl", "compute-mode", "gpu-damaged",
})  # fmt: skip
_CPU_RULES = frozenset({"gloo-fails", "no-gloo", "small-shm", "no-shm", "no-compiler", "old-compiler", "no-ninja",
                        "no-python-headers", "op-does-not-build", "noexec"})  # fmt: skip


def capabilities(sections: Mapping[str, Section], findings: list[Finding]) -> list[Capability]:
    """In the order in which a user asks."""
    errors = [one for one in findings if one.severity == "error"]
    general = [one for one in errors if one.rule not in _GPU_RULES | _CPU_RULES]
    return [
        Capability("plan, estimate, check, report", "yes", "needs no training library"),
        _on_processors(sections, general, errors),
        _on_gpus(sections, general, errors),
        *_by_precision(sections, general),
        *_by_release(sections, general),
        *_by_op(sections),
    ]


def _facts(sections: Mapping[str, Section], name: str) -> dict[str, Any]:
    return sections[name].facts if name in sections else {}


def _state(sections: Mapping[str, Section], library: str) -> str:
    return str(_facts(sections, "releases").get(library, {}).get("state", "missing"))


def _on_processors(sections: Mapping[str, Section], general: list[Finding], errors: list[Finding]) -> Capability:
    name = "train on processors"
    in_the_way = [*general, *(one for one in errors if one.rule in _CPU_RULES)]
    if in_the_way:
        return Capability(name, "no", in_the_way[0].message)
    gloo = _facts(sections, "collectives").get("gloo", {})
    done = next((one for one in gloo.values() if "seconds" in one), None)
    if done is None:
        return Capability(name, "untried", "two gloo processes were not started")
    op = _facts(sections, "ops").get("ops", {}).get("ShareMemCommBuilder", {}).get("state")
    compiled = "DeepSpeed's collectives are compiled"
    if op == "untried":
        compiled = "DeepSpeed's collectives compile at the first run, in about a minute"
    return Capability(name, "yes", f"two gloo processes add up 1 MiB in {1000 * done['seconds']:.1f} ms; {compiled}")


def _on_gpus(sections: Mapping[str, Section], general: list[Finding], errors: list[Finding]) -> Capability:
    name = "train on GPUs"
    gpus = _facts(sections, "gpus")
    devices = gpus.get("torch_devices", [])
    in_the_way = [*(one for one in errors if one.rule in _GPU_RULES), *(general if gpus.get("gpus") else [])]
    if in_the_way:
        return Capability(name, "no", in_the_way[0].message)
    if not devices:
        return Capability(name, "no", "torch sees no GPU" if gpus.get("gpus") else "there is no NVIDIA GPU")
    told = f"{len(devices)} x {devices[0]['name']}"
    nccl = _facts(sections, "collectives").get("nccl")
    if not nccl:
        return Capability(name, "untried", f"{told}; NCCL was not tried")
    rate = nccl.get("bus_bandwidth")
    return Capability(name, "yes", f"{told}; NCCL adds up" + (f" at {rate / 1e9:.0f} GB/s (busbw)" if rate else ""))


def _by_precision(sections: Mapping[str, Section], general: list[Finding]) -> Iterator[Capability]:
    gpus, features = _facts(sections, "gpus"), _facts(sections, "memory").get("cpu_features", [])
    devices = gpus.get("torch_devices", [])
    if general or not _facts(sections, "imports"):
        return
    if devices:
        capability = min(tuple(int(part) for part in one["capability"].split(".")) for one in devices)
        told = f"compute capability {capability[0]}.{capability[1]}"
        yield Capability("precision bf16", "yes" if capability >= (8, 0) else "no", told)
        yield Capability("precision fp16", "yes" if capability >= (7, 0) else "no", told)
        return
    fast = [name for name in features if "bf16" in name]
    how = f"the processor has {', '.join(fast)}" if fast else "slowly: the processor has no bf16 of its own"
    yield Capability("precision bf16", "yes", how)
    wide = bool(gpus.get("torch_fp16_on_processor"))
    yield Capability(
        "precision fp16", "yes" if wide else "no", f"the processor has {'' if wide else 'no '}fp16 products"
    )


def _by_release(sections: Mapping[str, Section], general: list[Finding]) -> Iterator[Capability]:
    blocked = general[0].message if general else ""
    devices = _facts(sections, "gpus").get("torch_devices", [])
    wanted = {
        "engine mcore (Megatron-core)": "megatron-core",
        "method qlora, AdamW in 8 bits": "bitsandbytes",
        "optimizers lion and soap": "pytorch_optimizer",
        "evaluate (lm-evaluation-harness)": "lm-eval",
    }
    for name, library in wanted.items():
        state = _state(sections, library)
        release = _facts(sections, "releases").get(library, {}).get("installed")
        if blocked:
            yield Capability(name, "no", blocked)
        elif state in ("missing", "broken", "too old", "too new"):
            yield Capability(name, "no", f"{library}: {state}{f' ({release})' if release else ''}")
        elif library == "bitsandbytes" and not devices:
            yield Capability(name, "no", "it needs a GPU")
        else:
            yield Capability(name, "yes", f"{library} {release}")


def _by_op(sections: Mapping[str, Section]) -> Iterator[Capability]:
    ops = _facts(sections, "ops").get("ops", {})
    for name, builder in (
        ("offload to host memory by CPUAdam", "CPUAdamBuilder"),
        ("offload to a disk", "AsyncIOBuilder"),
    ):
        state = ops.get(builder, {}).get("state")
        if state in ("built", "installed"):
            yield Capability(name, "yes", "its op is compiled")
        elif state == "untried":
            yield Capability(name, "untried", "its op compiles on first use; `toolkit doctor --full` tries it")
        elif state is not None:
            yield Capability(name, "no", "its op does not build here")
