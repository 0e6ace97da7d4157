"""Which half of the published runs the constants of the framework profiles may be fitted on.

The split is by layout, not by row: rows of one layout differ in little, and a constant fitted on one of them has as
good as seen the others.
"""

import zlib

from toolkit.planner.validation.runs import MeasuredRun


def in_fit_half(run: MeasuredRun) -> bool:
    """True where the run's layout, (model, n_gpus, tp, pp), hashes to an even number: the half to fit on.

    CRC-32 of "model|n_gpus|tp|pp", an unstated count being 1: the same on every machine and in every order of rows.
    """
    layout = (run.text("model"), run.count("n_gpus") or 1, run.count("tp") or 1, run.count("pp") or 1)
    return zlib.crc32("|".join(str(part) for part in layout).encode()) % 2 == 0


def table_in_fit_half(table: tuple[str, ...]) -> bool:
    """The same for a whole table of layouts to rank, by the cells that its rows have in common.

    A table holds layouts of both halves, and parts of a table rank nothing: so this only divides the tables.
    """
    return zlib.crc32("|".join(table).encode()) % 2 == 0
