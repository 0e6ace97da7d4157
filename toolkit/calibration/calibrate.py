"""`toolkit calibrate`: measures this machine and writes it as a cluster file. Runs without torch; its ranks need it."""

import importlib.util
import math
import tempfile
from pathlib import Path

from toolkit.calibration.cluster_file import cluster_of, cluster_yaml
from toolkit.calibration.request import Request, Result
from toolkit.errors import INSTALL_TRAINING, ConfigError, MachineError, SpecError
from toolkit.launcher import run_ranks
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.machine import cpu_limits, gpu_names

DEFAULT_BUDGET_SECONDS = 75.0
"""The processes start in 5 to 20 s: together less than two minutes."""
LEAST_BUDGET_SECONDS = 5.0
"""Below it most sizes would be left out."""

_SUFFIXES = (".yaml", ".yml", ".json")
_COMPILING_SECONDS = 300.0


def calibrate(
    output: Path,
    *,
    num_ranks: int | None = None,
    precision: str | None = None,
    budget_seconds: float = DEFAULT_BUDGET_SECONDS,
    overwrite: bool = False,
) -> tuple[ClusterSpec, Result]:
    """Measure this machine's GPUs, or its processors where there are none, and write `output`.

    Args:
        output: YAML file for `--cluster`; written whole or not at all.
        num_ranks: ranks that measure at once; None: as many as a plan for this machine has.
        precision: fp32, bf16 or fp16; None: what suits the device.
        budget_seconds: how long measuring may take.
        overwrite: replace `output`.

    Raises:
        ConfigError: `output` is there already or cannot be written.
        SpecError: a bad name, precision or budget.
        MachineError: more ranks than devices, GPUs of several kinds, no torch.
        EngineError: a rank died.
    """
    _check_output(output, overwrite)
    if not (math.isfinite(budget_seconds) and budget_seconds >= LEAST_BUDGET_SECONDS):
        raise SpecError(f"--budget {budget_seconds:g}: needs at least {LEAST_BUDGET_SECONDS:g} seconds")
    names = gpu_names()
    kind = "cuda" if names else "cpu"
    request = Request.parse(
        {"kind": kind, "precision": precision, "budget_seconds": budget_seconds}, source="toolkit calibrate"
    )
    known = _known_machine(names)
    ranks = _checked_ranks(num_ranks, names, known)
    if importlib.util.find_spec("torch") is None:
        raise MachineError(f"calibrating computes; {INSTALL_TRAINING}")
    try:
        # Beside the output: its disk is measured, and the file can be moved there in one step.
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".calibrate-") as name:
            scratch = Path(name)
            request.write(scratch)
            run_ranks(
                "toolkit.calibration.measure",
                [name],
                num_ranks=ranks,
                kind=request.kind,
                logs=scratch,
                timeout_s=2 * budget_seconds + _COMPILING_SECONDS,
            )
            result = Result.read(scratch)
            cluster = cluster_of(result, known, num_ranks=ranks)
            (scratch / "cluster.yaml").write_text(cluster_yaml(cluster), encoding="utf-8")
            (scratch / "cluster.yaml").replace(output)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); name a file in a folder of yours") from None
    return cluster, result


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix.lower() not in _SUFFIXES:
        raise SpecError(f"-o {output}: `--cluster` reads {', '.join(_SUFFIXES)} files; write to {output.name}.yaml")
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; name a file")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output}: is there already; pass --overwrite to replace it, or write to another file")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: the folder {output.parent} does not exist; make it, or write to another one")


def _known_machine(names: list[str]) -> ClusterSpec | None:
    """The machine by the catalog; None where it has GPUs of one kind that the catalog lacks."""
    try:
        return ClusterSpec.detect()
    except MachineError:
        if len(set(names)) == 1:
            return None
        raise


def _checked_ranks(asked: int | None, names: list[str], known: ClusterSpec | None) -> int:
    devices, word = (len(names), "GPU(s)") if names else (cpu_limits()[0], "processor(s)")
    ranks = asked if asked is not None else known.world_size if known else devices
    if not 1 <= ranks <= devices:
        raise MachineError(f"--ranks {ranks}: this machine has {devices} {word}; use 1 to {devices}")
    return ranks
