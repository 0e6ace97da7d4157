"""What a run is made of, besides a plan: the demo's model and some of its samples."""

import json
from pathlib import Path

from toolkit.demo.model import write_demo_model
from toolkit.demo.tasks import demo_rows


def write_inputs(folder: Path, *, rows: int) -> Path:
    """Fill the folder with `model/` and `data.jsonl`."""
    chosen = demo_rows()[0][:rows]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    write_demo_model(folder / "model", (row[key] for row in chosen for key in ("prompt", "completion")))
    return folder
