"""The desk half answers at once and where no training library is installed."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PARTS = ("cli", "specs", "planner", "emitters", "check", "doctor", "launcher", "report")

# Stands in for a machine on which only the project's first dependencies are installed.
BLOCK = """
import importlib, sys

class Absent:
    names = {"accelerate", "datasets", "deepspeed", "filelock", "jinja2", "matplotlib", "megatron", "numpy", "peft",
             "pyarrow", "safetensors", "tokenizers", "torch", "transformers"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} on a desk", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_python(code: str) -> str:
    """What the code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def desk_modules() -> list[str]:
    """Dotted names of the desk's modules, without those that draw with a training library."""
    paths = [path for part in PARTS for path in sorted((REPOSITORY / "toolkit").glob(f"{part}/**/*.py"))]
    paths += [REPOSITORY / "toolkit" / name for name in ("__main__.py", "launcher.py", "run_folder.py", "units.py")]
    for name in ("plots.py", "bar_plots.py", "plan_page.py", "plan_plots.py", "schedule_plot.py"):
        paths.remove(REPOSITORY / "toolkit" / "report" / name)
    paths = [path for path in paths if path.parent.name != "pictures"]
    paths.remove(REPOSITORY / "toolkit" / "doctor" / "tried" / "ops.py")  # in a process of its own
    return [".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_every_desk_module_imports_without_the_training_half() -> None:
    modules = desk_modules()
    assert len(modules) > 20
    assert run_python(f"{BLOCK}\nfor name in {modules!r}: importlib.import_module(name)\nprint('all')") == "all"


def test_a_plan_is_made_written_and_read_without_the_training_half(tmp_path: Path) -> None:
    code = f"""{BLOCK}
import toolkit
plan = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64)
recipe = toolkit.Recipe(model="llama-3.1-8b", workload=plan.workload)
folder = toolkit.emit(plan, {str(tmp_path / "run")!r}, recipe)
print(toolkit.load_run(folder).plan == plan)
"""
    assert run_python(code) == "True"


def test_a_report_is_written_without_the_training_half(tmp_path: Path) -> None:
    code = f"""{BLOCK}
from pathlib import Path
import toolkit
from rich.console import Console
from toolkit.report.show import show_runs
plan = toolkit.plan("llama-3.1-8b", "8xA100-80GB", seq_len=4096, global_batch=64)
run = toolkit.emit(plan, {str(tmp_path / "run")!r}, toolkit.Recipe(model="llama-3.1-8b", workload=plan.workload))
show_runs([Path(run)], Console(width=100))
"""
    told = run_python(code)
    assert "plots need matplotlib" in told
    assert (tmp_path / "run" / "report.html").is_file()


def test_importing_the_package_imports_nothing_heavy() -> None:
    # Beyond the bare interpreter; CPU time, which a busy machine does not stretch.
    code = """
import sys, time
before, began = set(sys.modules), time.process_time()
import toolkit
print(time.process_time() - began, *sorted(set(sys.modules) - before))
"""
    seconds, *modules = run_python(code).split()
    assert float(seconds) < 0.5
    assert not {"pydantic", "rich", "torch", "typer", "yaml"} & set(modules)


def test_the_plan_command_answers_at_once() -> None:
    # Measured: 0.4 s, most of it imports. CPU time, as above.
    words = ["plan", "--model", "llama-3.1-8b", "--cluster", "8xA100-80GB", "--seq-len", "4096", "--global-batch", "64"]
    before = _children_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert "ZeRO-" in done.stdout
    assert _children_seconds() - before < 1.5


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system
