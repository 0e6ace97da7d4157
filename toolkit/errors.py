"""The error tree: everything a user can cause ends in one ToolkitError with one readable message.

A message says what was given, what was needed and what to do. The library raises; only the command line and
finetune.py catch, print the message and exit with code 2.
"""


class ToolkitError(Exception):
    """Base of all errors a user can cause; `str(error)` is the whole message."""


class SpecError(ToolkitError):
    """A model, cluster, workload or recipe description is wrong or cannot be found."""


class NoFeasiblePlan(ToolkitError):
    """The planner judged every candidate and none of them runs; the message holds the nearest one and its reason."""


class ConfigError(ToolkitError):
    """A generated or hand-edited file (plan, ds_config, accelerate YAML, run folder) cannot be used."""


class DataError(ToolkitError):
    """A data set is missing, empty, broken or unusable; the message names file and line where there is one."""


class EngineError(ToolkitError):
    """An engine cannot start or keep training with this plan on these processes."""


class CheckpointError(ToolkitError):
    """Weights on disk are missing, damaged or do not fit the model."""


class MachineError(ToolkitError):
    """This machine lacks something that the command needs."""


INSTALL_LIBAIO = "install libaio (Debian: `apt install libaio-dev`)"
INSTALL_TRAINING = "install the training half: pip install -c constraints.txt -e '.[train]' in the toolkit's own folder"
"""What to do where a library of the training half is missing."""
