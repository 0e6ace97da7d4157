"""The command line's reference, from typer's own generator, with a table in the place of each of its lists."""

import os
import re
import subprocess
import sys
from pathlib import Path

from site_pages.markdown import code, page, table

_COMMAND = re.compile(r"^## `toolkit (?P<name>[\w-]+)`\n(?P<body>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LIST = re.compile(r"^\*\*(?P<kind>Arguments|Options)\*\*:\n\n(?P<lines>(?:\* .*\n)+)", re.MULTILINE)
_LINE = re.compile(r"\* `(?P<name>[^`]+)`:? ?(?P<help>.*?)(?P<facts>(?: +\[(?:default: .*|required)\])*)$")

_OPTION = re.compile(r"(?P<names>-[\w-]+(?:(?:, | / )-[\w-]+)*)(?: (?P<value>.+))?")
_VALUES = {
    **dict.fromkeys(("int", "float", "int range", "float range"), "NUMBER"),
    "str": "TEXT",
    "path": "PATH",
    "list[str]": "TEXT, repeatable",
}

_INTRODUCTION = (
    "Every command ends with exit code 0, or with one message on standard error and "
    "[an exit code](../reliability.md#leaving-and-starting-again) that says whose turn it is: 2 where the input has to "
    "change, 1 where `toolkit check` or `toolkit doctor` found an error, 75, 76, 77 and 85 of a run."
)


def reference() -> str:
    """The page of all commands."""
    app = Path(__file__).with_name("command_app.py")
    words = [sys.executable, "-m", "typer", str(app), "utils", "docs", "--name", "toolkit"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment)
    if done.returncode:
        raise RuntimeError(f"typer makes no documentation of the commands: {done.stderr.strip()}")
    text = done.stdout
    commands = [(found["name"], _tables(found["body"])) for found in _COMMAND.finditer(text)]
    links = [(f"[`{name}`](#toolkit-{name})", _first_paragraph(body)) for name, body in commands]
    sections = [f"## toolkit {name}\n\n{body.strip()}" for name, body in commands]
    return page("Command line", _INTRODUCTION, table(("Command", "What it does"), links), *sections)


def _tables(body: str) -> str:
    return _LIST.sub(_table, body.replace("**Usage**:\n\n", ""))


def _table(found: re.Match[str]) -> str:
    rows = [_row(line) for line in found["lines"].splitlines() if "`--help`" not in line]
    kind = found["kind"].removesuffix("s")
    return table((kind, "Value", "Default", "Meaning"), rows) + "\n" if rows else ""


def _row(line: str) -> tuple[str, ...]:
    matched = _LINE.match(line)
    if matched is None:
        raise ValueError(
            f"typer's documentation has a line of another form: {line!r}; mend docs/site_pages/commands.py"
        )
    option = _OPTION.fullmatch(matched["name"])
    name, value = option.group("names", "value") if option else (matched["name"].partition(" ")[0], None)
    value = (value or "").strip("<>")
    default = re.search(r"\[default: ([^;\]]*)", matched["facts"])
    usual = "**required**" if "[required]" in matched["facts"] else code(default[1]) if default else ""
    return code(name), _VALUES.get(value, value), usual, matched["help"].strip()


def _first_paragraph(body: str) -> str:
    return " ".join(body.strip().split("\n\n")[0].split())
