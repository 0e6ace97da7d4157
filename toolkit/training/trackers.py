"""TensorBoard, Weights & Biases and MLflow through accelerate's trackers."""

from typing import Any

from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import is_mlflow_available, is_tensorboard_available, is_wandb_available

from toolkit.errors import MachineError
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import TrackerName
from toolkit.training.telemetry import Tracker

_AVAILABLE = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "mlflow": is_mlflow_available}


def check_trackers(names: tuple[TrackerName, ...]) -> None:
    """Refuse a tracker that is not installed, before anything is loaded.

    Raises:
        MachineError: naming the package.
    """
    for name in names:
        if not _AVAILABLE[name]():
            raise MachineError(f"recipe.yaml: tracker `{name}` is not installed; `pip install {name}` or remove it")


def open_trackers(names: tuple[TrackerName, ...], folder: RunFolder) -> tuple[Tracker, ...]:
    """Start the named trackers; for rank 0 after the process group has started."""
    return tuple(_open(name, folder) for name in names)


def _open(name: TrackerName, folder: RunFolder) -> Tracker:
    run_name = folder.path.resolve().name
    tracker: Any
    match name:
        case "tensorboard":
            tracker = TensorBoardTracker(run_name, logging_dir=str(folder.curves))
        case "wandb":
            tracker = WandBTracker("toolkit", name=run_name, dir=str(folder.path))
        case "mlflow":
            tracker = MLflowTracker("toolkit", logging_dir=str(folder.curves), run_name=run_name)
    tracker.start()
    opened: Tracker = tracker
    return opened
