"""What the site has beside the Markdown of docs/: pages made from the code, others of the repository, drawings."""

import posixpath
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from site_pages import commands, costs, decisions, engines, models, rules
from site_pages.drawings import DRAWINGS

REPOSITORY = Path(__file__).parents[2]

GENERATED: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands.reference,
    **{f"reference/{name}.md": partial(models.reference, name) for name in models.PAGES},
    "reference/engines.md": engines.reference,
    "reference/check-rules.md": rules.rules,
    "reference/ds-config-keys.md": rules.known_keys,
    "decisions/index.md": decisions.index,
}
"""Place on the site -> what makes the page."""

INCLUDED = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/README.md": "benchmarks.md",
    "ds_configs/README.md": "reference/ds-configs.md",
}
"""Pages of the repository outside docs/ -> their place on the site."""

TABLES: dict[str, Callable[[], str]] = {
    "glance": costs.glance_table,
    "setting": costs.setting,
    "packing": costs.packing_table,
    **{f"memory {name}": partial(costs.memory_table, name) for name in costs.COMPARISONS},
    **{f"time {name}": partial(costs.time_table, name) for name in costs.COMPARISONS},
}
"""Name in `<!-- table: NAME -->` -> what makes it."""

# On a line of its own; a page may speak of one in a sentence.
_MARKER = re.compile(
    r"^<!-- (?P<kind>table|drawing): (?P<name>[\w -]+?)(?: \| (?P<words>.+?))? -->$", flags=re.MULTILINE
)


@cache
def places() -> dict[str, str]:
    """Place in the repository -> place on the site, of all that links may lead to."""
    found = {
        f"docs/{path.relative_to(REPOSITORY / 'docs').as_posix()}": path.relative_to(REPOSITORY / "docs").as_posix()
        for path in (REPOSITORY / "docs").rglob("*")
        if path.is_file() and path.suffix != ".py"
    }
    found |= {f"docs/{uri}": uri for uri in GENERATED}
    found |= {f"ds_configs/{path.name}": f"ds_configs/{path.name}" for path in (REPOSITORY / "ds_configs").iterdir()}
    found |= INCLUDED
    # A folder is its first page.
    folders = {
        posixpath.dirname(place): uri for place, uri in found.items() if place.endswith(("index.md", "README.md"))
    }
    return {**folders, **found}


def filled(text: str, *, uri: str) -> str:
    """The page with its tables and drawings in the places of their marks.

    Raises:
        ValueError: there is no table or drawing of that name.
    """
    up = posixpath.relpath("pictures", posixpath.dirname(uri) or ".")

    def made(mark: re.Match[str]) -> str:
        name = mark["name"]
        if mark["kind"] == "table" and name in TABLES:
            return TABLES[name]()
        if mark["kind"] == "drawing" and name in DRAWINGS:
            words = mark["words"] or name
            return f"![{words}]({up}/{name}-light.svg#only-light)![{words}]({up}/{name}-dark.svg#only-dark)"
        known = sorted({"table": TABLES, "drawing": DRAWINGS}[mark["kind"]])
        raise ValueError(f"{uri}: {mark[0]} names no {mark['kind']}; there are {', '.join(known)}")

    return _MARKER.sub(made, text)


def drawn(text: str) -> set[str]:
    """Names of the drawings that a page has."""
    return {mark["name"] for mark in _MARKER.finditer(text) if mark["kind"] == "drawing"} & DRAWINGS.keys()
