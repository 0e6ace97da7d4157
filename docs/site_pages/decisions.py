"""The list of decisions, from the notes themselves."""

import re
from pathlib import Path

from site_pages.markdown import page, table

_FOLDER = Path(__file__).parents[1] / "decisions"


def notes() -> list[Path]:
    """The notes, by number."""
    return sorted(_FOLDER.glob("[0-9]*.md"))


def index() -> str:
    """The page: every note with the first sentence of its choice."""
    rows = []
    for path in notes():
        text = path.read_text(encoding="utf-8")
        title = text.splitlines()[0].lstrip("# ")
        number, _, words = title.partition(". ")
        rows.append((number, f"[{words or title}]({path.name})"))
    said = "Choices that somebody may question: what they answer, what was chosen, what it costs, what was measured."
    return page("Decisions", said, table(("", "Decision"), rows))


def title(path: Path) -> str:
    """The heading of a note."""
    found = re.match(r"# (.+)", path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{path.name}: a note begins with a heading, as `# 1. What was chosen`")
    return found[1]
