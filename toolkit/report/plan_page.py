"""`--plot`: a plan as one PNG, or as one HTML file that needs nothing else."""

import html
import io
import re
from pathlib import Path

from rich.console import Console

from toolkit.planner.plan import Plan
from toolkit.report.files import write_whole
from toolkit.report.plan_plots import picture
from toolkit.report.plan_table import plan_report

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1a1a1a; }}
h1 {{ font-size: 1.3rem; }}
svg {{ width: 100%; height: auto; }}
pre {{ font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<figure style="margin: 0" role="img" aria-label="Memory per stage, time per step, and the choices that fit">
{svg}
</figure>
<pre>{report}</pre>
</body>
</html>
"""


def draw_plan(plan: Plan, path: Path) -> None:
    """Write the picture whole or not at all; the ending says whether PNG or HTML.

    Raises:
        MachineError: no matplotlib, or the file cannot be written.
    """
    written = picture(plan, "png") if path.suffix.lower() == ".png" else _page(plan).encode()
    write_whole(path, written, remedy="give --plot another place")


def _page(plan: Plan) -> str:
    drawn = picture(plan, "svg").decode()
    # An SVG inside a page has neither prolog nor metadata, which name web addresses.
    svg = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    console = Console(width=118, file=io.StringIO(), record=True, markup=False, highlight=False)
    console.print(plan_report(plan))
    report = console.export_html(code_format="{code}", inline_styles=True)
    title = f"{plan.model.name} on {plan.world_size:,} x {plan.cluster.device.name}"
    return PAGE.format(title=html.escape(title), svg=svg, report=report)
