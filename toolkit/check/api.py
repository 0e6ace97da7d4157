"""Files and run folders in, findings with their lines out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from toolkit.check.accelerate_rules import check_accelerate
from toolkit.check.accelerate_schema import ACCELERATE
from toolkit.check.context import Asked, Context, Method, Reader, Values, plan_beside
from toolkit.check.document import Document, read_document
from toolkit.check.ds_config import check_ds_config
from toolkit.check.ds_schema import DS_CONFIG
from toolkit.check.finding import Finding, Placed, in_order
from toolkit.check.foreign import check_foreign, trainer_of
from toolkit.check.releases import Release, deepspeed_release
from toolkit.errors import ConfigError
from toolkit.run_folder import RunFolder

FileKind = Literal["ds_config", "accelerate", "recipe", "plan", "foreign"]
"""foreign: the recipe of another trainer."""

_RECIPE_KEYS = {
    "model", "workload", "data", "schedule", "evaluation", "checkpoint", "epochs", "trackers", "max_steps", "optimizer",
    "clipping", "communication", "lora", "neftune_alpha", "faults", "seed",
}  # fmt: skip
_KNOWN_OF = 4
"""Of how many keys one must be known, for the kind of a file to be told from them."""
_PLAN_KEYS = {"strategy", "workload", "cluster", "memory", "reasons"}


@dataclass(frozen=True)
class Question:
    """What the files are checked for."""

    deepspeed: Release
    """The release of DeepSpeed."""
    world_size: int | None = None
    """Ranks, where they are known."""
    read_by: Reader | None = None
    """Who reads a ds_config; None: a run of this toolkit where a plan lies beside it."""
    kind: FileKind | None = None
    """What every file is; None: told from its name and keys."""
    memory: Asked | None = None
    """Model and cluster of the memory verdict."""
    method: Method | None = None
    """What is trained, where it is known."""


def check(paths: Sequence[Path | str], question: Question | None = None) -> list[Placed]:
    """Every finding in files and run folders, by file and line.

    Raises:
        SpecError: a file cannot be read, or model or cluster are not known.
        ConfigError: a folder holds no run.
    """
    asked = question or Question(deepspeed_release(None))
    found: list[Placed] = []
    for path in map(Path, paths):
        found += _folder(path, asked) if path.is_dir() else check_document(read_document(path), asked)
    return in_order(found)


def kind_of(document: Document) -> FileKind:
    """What a file is, by its keys and then by its name."""
    names, stem = {str(name) for name in document.content}, document.path.name.lower()
    model = document.content.get("model")
    if len(names & _PLAN_KEYS) >= 3 or stem == "plan.json":
        return "plan"
    if names & {"distributed_type", "compute_environment"}:
        return "accelerate"
    if trainer_of(document.content) is not None and "workload" not in names:
        return "foreign"
    by_kind: dict[FileKind, int] = {
        "ds_config": sum(DS_CONFIG.find(name) is not None for name in names),
        "accelerate": sum(_of_accelerate(name, document.content.get(name)) for name in names),
        # Others have a mapping of that name.
        "recipe": len(names & _RECIPE_KEYS) if "workload" in names or isinstance(model, str) else 0,
    }
    best = max(by_kind, key=lambda kind: by_kind[kind])
    if by_kind[best] * _KNOWN_OF >= max(len(names), 1):
        return best
    if "accelerate" in stem:
        return "accelerate"
    if document.path.suffix.lower() == ".json":
        return "ds_config"
    return "foreign" if names and "recipe" not in stem else "recipe"


def _of_accelerate(name: str, value: Any) -> bool:
    """Whether a key is accelerate's; others name a file by `deepspeed_config`."""
    key = ACCELERATE.find(name)
    return key is not None and (key.section is None or not isinstance(value, str))


def check_document(document: Document, question: Question) -> Iterator[Placed]:
    """Findings of one file that was read, by itself and against the plan beside it."""
    for finding, offset in document.faults:
        yield document.place(_for_reader(finding, question.read_by), offset)
    if not isinstance(document.value, dict):
        return
    yield from (document.place(finding) for finding in _findings(document, question))


def _for_reader(finding: Finding, read_by: Reader | None) -> Finding:
    """A fault of the text as its reader sees it: DeepSpeed's own takes comments, and no Infinity."""
    if finding.rule == "not-finite" and read_by in ("toolkit", "deepspeed"):
        return replace(finding, severity="error")
    if finding.rule in ("comment", "comma", "byte-order-mark") and read_by == "deepspeed":
        return replace(finding, severity="note", edit=None)
    return finding


def _findings(document: Document, question: Question) -> Iterator[Finding]:
    kind = question.kind or kind_of(document)
    if kind in ("recipe", "plan"):
        # pydantic takes as long to start as a hundred ds_configs to check.
        from toolkit.check.spec_files import check_plan, check_recipe

        yield from (check_recipe if kind == "recipe" else check_plan)(document.value)[1]
        return
    values, plan = Values(document.content), plan_beside(document.path)
    read_by: Reader | None = question.read_by or ("toolkit" if plan is not None else None)
    planned = plan if read_by == "toolkit" else None
    context = Context(question.deepspeed, question.world_size, read_by, planned, question.method)
    if kind == "foreign":
        yield from check_foreign(values, context, folder=document.path.parent)
        return
    if kind == "accelerate":
        yield from check_accelerate(values, context, folder=document.path.parent)
        return
    if context.plan is not None and context.world_size is None:
        context = replace(context, world_size=context.plan.world_size)
    yield from check_ds_config(values, context)
    if question.memory is not None:
        from toolkit.check.memory_verdict import memory_verdict

        yield from memory_verdict(values, question.memory)


def _folder(path: Path, question: Question) -> list[Placed]:
    """A run folder: each of its files, and recipe against plan."""
    run = RunFolder(path)
    kinds: dict[Path, FileKind] = {
        run.plan: "plan",
        run.recipe: "recipe",
        run.ds_config: "ds_config",
        run.accelerate: "accelerate",
    }
    there = {file: kind for file, kind in kinds.items() if file.is_file()}
    if not there:
        wanted = ", ".join(file.name for file in kinds)
        raise ConfigError(f"{path}: holds none of {wanted}; give a run folder of `toolkit plan -o`, or files")
    found: list[Placed] = []
    documents = {kind: read_document(file) for file, kind in there.items()}
    for kind, document in documents.items():
        found += check_document(document, replace(question, kind=kind, read_by="toolkit"))
    needed = [run.plan, run.recipe, run.accelerate]
    planned = plan_beside(run.ds_config)
    if planned is None or planned.engine != "mcore":
        needed.append(run.ds_config)
    found += [_missing(file) for file in needed if file not in there]
    return found + list(_together(documents))


def _missing(file: Path) -> Placed:
    told, remedy = f"{file.name} is missing in the run folder", "make it again with `toolkit plan ... --overwrite`"
    return Placed(str(file.parent), 1, 1, Finding("error", "no-file", (), told, "`toolkit launch` refuses it", remedy))


def _together(documents: dict[FileKind, Document]) -> Iterator[Placed]:
    if not {"plan", "recipe"} <= documents.keys():
        return
    from toolkit.check.spec_files import check_plan, check_recipe, recipe_against_plan

    recipe, plan = check_recipe(documents["recipe"].value)[0], check_plan(documents["plan"].value)[0]
    if recipe is not None and plan is not None:
        for finding in recipe_against_plan(recipe, plan):
            yield documents["recipe"].place(finding)
