"""Pictures for notebooks: each call returns one that Jupyter shows and that can be saved.

They read plans and runs, and need matplotlib.
"""

from toolkit.errors import INSTALL_TRAINING, MachineError

try:
    import matplotlib  # noqa: F401
except ImportError as error:  # the desk half is installed without it; said once for all modules below
    raise MachineError(f"pictures need matplotlib; {INSTALL_TRAINING}") from error

from toolkit.report.pictures.choices import draw_choices
from toolkit.report.pictures.measured import draw_comparison
from toolkit.report.pictures.memory import draw_memory, draw_memory_groups
from toolkit.report.pictures.picture import Picture
from toolkit.report.pictures.published import draw_published
from toolkit.report.pictures.training import draw_training

__all__ = [
    "Picture",
    "draw_choices",
    "draw_comparison",
    "draw_memory",
    "draw_memory_groups",
    "draw_published",
    "draw_training",
]
