"""A tiny copy of the run, trained in its layout, in one process, and without any engine: all three must agree.

It runs in processes of its own, before the run has any: DeepSpeed and accelerate keep what they were told once.
"""

import json
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import PreflightFailed
from toolkit.launcher.beside import beside
from toolkit.planner.plan import Plan
from toolkit.preflight.outcome import Outcome, judged
from toolkit.run_folder import RunFolder

_NAME = "tiny copy"
_MODULE = "toolkit.preflight.copy_rank"
_SECONDS = 900.0
"""DeepSpeed compiles its ops on first use; else it takes a quarter of a minute."""
_TOLERANCES = {False: (1e-4, 1e-3), True: (1e-2, 5e-2)}
"""Relative, of losses and norms, without and with 16-bit weights. On the CPU layouts differ by 1e-6 and 2e-6, in bf16
by 7e-4 and 8e-3 over 20 steps; a GPU may take TF32."""
_WORDS = {"loss": "loss", "norm": "gradient norm"}
_PASSES = {"loss": "the forward pass", "norm": "the backward pass"}
_LAST_PORT = 65535
_REMEDY = "plan again with another engine or layout, or take out what was changed in ds_config.json; please report it"


def check_parity(plan: Plan, run: RunFolder, environment: Mapping[str, str]) -> Outcome | None:
    """Train and compare; before this process has a process group. On ranks other than 0 there is nothing to tell.

    Args:
        plan: of the run.
        run: its folder.
        environment: in which the launcher started this rank.

    Raises:
        PreflightFailed: the copy does not train, or not to the same numbers.
    """
    if plan.workload.method == "qlora":
        return Outcome(_NAME, "left out", "4-bit weights have no counterpart in plain transformers on a CPU")
    rank = environment.get("RANK", "0")
    with tempfile.TemporaryDirectory() as name:
        divided, single = Path(name) / "divided.json", Path(name) / "single.json"
        words = [sys.executable, "-m", _MODULE, str(run.path.absolute())]
        commands = [([*words, str(divided)], _second_group(environment))]
        if rank == "0":
            commands.append(([*words, str(single), "--alone"], _own_group(environment)))
        faults = [fault for fault in beside(commands, seconds=_SECONDS) if fault]
        if faults:
            raise PreflightFailed(Outcome(_NAME, "failed", f"it does not train: {faults[0]}", _REMEDY).fault)
        if rank != "0":
            return None
        found = compare(*(json.loads(path.read_text(encoding="utf-8")) for path in (divided, single)))
    if found.state == "failed":
        raise PreflightFailed(found.fault)
    return found


def compare(divided: Mapping[str, Any], single: Mapping[str, Any]) -> Outcome:
    """What the copy did in its layout beside what one process did, and plain transformers."""
    loss, norm = _TOLERANCES[bool(divided["rounded"] or single["rounded"])]
    fault = None
    if not (divided["finite"] and single["finite"]) or any(divided["skipped"]) or any(single["skipped"]):
        fault = "loss or gradients are not finite"
    elif divided["labels"] != single["labels"]:
        fault = f"labels per step are {divided['labels']}, in one process {single['labels']}"
    else:
        fault = _first_difference(divided, single, loss=loss, norm=norm)
    steps = len(divided["loss"])
    said = (
        f"{steps} steps in this layout, in one process and in plain transformers agree: loss "
        f"{_farthest(divided, single, 'loss'):.1e}, gradient norm {_farthest(divided, single, 'norm'):.1e}"
    )
    return judged(_NAME, said, fault=fault, remedy=_REMEDY)


def _first_difference(divided: Mapping[str, Any], single: Mapping[str, Any], *, loss: float, norm: float) -> str | None:
    """At the first step the forward or backward pass is at fault, later the update before it, or its rate."""
    for step, here in enumerate(zip(divided["loss"], divided["norm"], strict=True)):
        for prefix, whose in (("", "one process"), ("plain_", "plain transformers")):
            for name, mine, tolerance in zip(("loss", "norm"), here, (loss, norm), strict=True):
                # Of some optimizers plain torch does the first step only.
                theirs = dict(enumerate(single[prefix + name])).get(step, mine)
                if not abs(mine - theirs) <= tolerance * abs(theirs):
                    part = "an update, or its learning rate," if step else _PASSES[name]
                    what = f"{_WORDS[name]} of step {step + 1} is {mine:.6g}, that of {whose} {theirs:.6g}"
                    return f"{what}: {part} is wrong in this layout"
    return None


def _farthest(divided: Mapping[str, Any], single: Mapping[str, Any], what: str) -> float:
    """Relative, from one process or from plain transformers."""
    both = (single[what], single[f"plain_{what}"])
    return float(max(abs(a - b) / abs(b) for there in both for a, b in zip(divided[what], there, strict=False)))


def _second_group(environment: Mapping[str, str]) -> dict[str, str]:
    """The ranks of the run a second time, with a store of their own beside the run's.

    Not in torchrun's: the run would find the copy's addresses there and connect to processes that have ended.
    """
    kept = {key: value for key, value in environment.items() if not key.startswith("TORCHELASTIC_")}
    port = int(environment.get("MASTER_PORT", "29500"))
    return {**kept, "MASTER_PORT": str(port + 1 if port < _LAST_PORT else port - 1)}


def _own_group(environment: Mapping[str, str]) -> dict[str, str]:
    """One rank by itself."""
    kept = {key: value for key, value in environment.items() if not key.startswith("TORCHELASTIC_")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**kept, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
