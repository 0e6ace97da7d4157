"""Commands, recipes and keys that the documentation shows are there: options, recipe.yaml, TrainingArguments."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from shell_blocks import commands
from toolkit.__main__ import command_line
from toolkit.specs.base import Spec
from toolkit.specs.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MIGRATION = ROOT / "docs" / "how-to" / "move-from-other-trainers.md"
NEEDED = {"model": "m", "workload": {"seq_len": 64, "global_batch": 8}}


def options() -> dict[str, set[str]]:
    """Command -> its options."""
    group: Any = typer.main.get_command(command_line())
    return {
        name: {"--help", *(word for one in command.params for word in (*one.opts, *one.secondary_opts))}
        for name, command in group.commands.items()
    }


def toolkit_lines(page: Path) -> list[list[str]]:
    """The words of every `toolkit` command that a block of a page shows."""
    found = []
    for command in commands(page):
        reader = shlex.shlex(command.words, posix=True, punctuation_chars=";|&")
        reader.whitespace_split = True
        lines: list[list[str]] = [[]]
        for word in reader:
            lines = [*lines, []] if set(word) <= set(";|&") else [*lines[:-1], [*lines[-1], word]]
        found += [line[1:] for line in lines if line[:1] == ["toolkit"]]
    return found


def test_commands_have_the_options_that_pages_show() -> None:
    known, faults, seen = options(), [], 0
    for page in PAGES:
        for command, *words in toolkit_lines(page):
            seen += 1
            if command not in known:
                faults.append(f"{page.name}: no command {command}")
                continue
            given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            faults += [f"{page.name}: {command} has no {word}" for word in given if word not in known[command]]
    assert not faults
    assert seen > 40


def test_plans_that_pages_show_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [ROOT / "docs" / "index.md", ROOT / "docs" / "costs.md", *(ROOT / "docs" / "how-to").glob("*.md")]
    lines = [line for page in pages for line in toolkit_lines(page) if line[0] in ("plan", "estimate")]
    lines = [line for line in lines if "--recipe" not in line]
    assert len(lines) > 8
    for line in lines:
        overwrite = ["--overwrite"] if "-o" in line else []
        done = CliRunner().invoke(command_line(), [*line, *overwrite])
        assert done.exit_code == 0, f"{' '.join(line)}: {done.output[-500:]} {done.exception}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_pages_show_are_recipes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n# recipe\.yaml[^\n]*\n(.*?)```", text, flags=re.DOTALL):
        # A page may show one key in several ways.
        for part in re.split(r"\n(?=communication:)", block):
            shown = yaml.safe_load(part)
            if "data" in shown:
                shown["data"] = {"train": "samples.jsonl", **shown["data"]}
            work = {**NEEDED["workload"], **shown.get("workload", {})}  # type: ignore[dict-item]
            Recipe.parse({**NEEDED, **shown, "workload": work}, source=page.name)


def recipe_keys() -> set[str]:
    """Every key of recipe.yaml, as `schedule.kind`."""

    def inside(spec: type[Spec], prefix: str) -> set[str]:
        found = set()
        for name, field in spec.model_fields.items():
            found.add(f"{prefix}{name}")
            for one in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(one, type) and issubclass(one, Spec):
                    found |= inside(one, f"{prefix}{name}.")
        return found

    return inside(Recipe, "")


def rows(heading: str) -> list[tuple[list[str], list[str]]]:
    """Names in both columns of a table of the page about other trainers."""
    part = MIGRATION.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n### ")[0].split("\n## ")[0]
    lines = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", left), re.findall(r"`([^`]+)`", right)) for left, right in lines]


@pytest.mark.parametrize("trainer", ["transformers' Trainer", "Axolotl", "LLaMA-Factory"])
def test_other_trainers_keys_lead_to_keys_of_a_recipe(trainer: str) -> None:
    known, found = recipe_keys(), rows(trainer)
    assert len(found) > 15
    for _, names in found:
        section = ""
        for name in names:
            key = name.partition(":")[0]
            if key.startswith("."):
                key = f"{section}{key}"
            section = key.partition(".")[0]
            meant = re.fullmatch(r"[a-z_]+(\.[a-z_]+)+|[a-z_]+", key) and key not in ("gradient_clipping", "nothing")
            assert not meant or key in known, f"{trainer}: {key}"


def test_training_arguments_are_those_of_transformers() -> None:
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        pytest.skip("transformers is not installed")
    tree = ast.parse((Path(found.origin).parent / "training_args.py").read_text(encoding="utf-8"))
    (arguments,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "TrainingArguments")
    fields = {
        one.target.id for one in arguments.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    assert len(fields) > 50
    missing = [name for names, _ in rows("transformers' Trainer") for name in names if name not in fields]
    assert not missing
