"""Plan, launch and export LLaMA fine-tuning runs; the calls below are those of the command line.

>>> import toolkit
>>> plan = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64)
>>> toolkit.emit(plan, "run", toolkit.Recipe(...))
>>> toolkit.launch("run")
>>> toolkit.load_run("run").summary["loss_last"]

Importing this package imports nothing heavy: each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.emitters import emit
    from toolkit.errors import ToolkitError
    from toolkit.launcher.run import launch
    from toolkit.planner.api import plan
    from toolkit.planner.plan import Plan
    from toolkit.report.runs import Run, load_run
    from toolkit.specs.cluster import ClusterSpec
    from toolkit.specs.model import ModelSpec
    from toolkit.specs.recipe import Recipe
    from toolkit.specs.workload import Workload

__version__ = "0.1.0"

__all__ = [
    "ClusterSpec",
    "ModelSpec",
    "Plan",
    "Recipe",
    "Run",
    "ToolkitError",
    "Workload",
    "emit",
    "launch",
    "load_run",
    "plan",
]

# No module of the package may be called `plan`, `emit` or `launch`: importing it would hide the function here.
_HOMES = {
    "ClusterSpec": "toolkit.specs.cluster",
    "ModelSpec": "toolkit.specs.model",
    "Plan": "toolkit.planner.plan",
    "Recipe": "toolkit.specs.recipe",
    "Run": "toolkit.report.runs",
    "ToolkitError": "toolkit.errors",
    "Workload": "toolkit.specs.workload",
    "emit": "toolkit.emitters",
    "launch": "toolkit.launcher.run",
    "load_run": "toolkit.report.runs",
    "plan": "toolkit.planner.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
