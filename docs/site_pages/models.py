"""The configuration reference: every key of the files that people write and read, from the models that check them."""

import re
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from site_pages.fields import allowed, default, models_in, type_words, unit_of
from site_pages.markdown import code, page, plain, table
from toolkit.planner.plan import Plan
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.recipe import Recipe


class Section(NamedTuple):
    """One model of a file: where in the file it stands, and what it is."""

    path: str
    spec: type[BaseModel]


PAGES: dict[str, tuple[str, type[BaseModel], str]] = {
    "recipe": (
        "recipe.yaml",
        Recipe,
        "What the planner does not decide: model, data, optimizer, schedule, evaluation. `toolkit plan -o RUN` writes "
        "it with every value and its meaning; `--set KEY=VALUE` gives any of these keys on the command line, with dots "
        "between the parts, as `--set schedule.kind=linear`. An unknown key is refused with the nearest known one.",
    ),
    "cluster": (
        "Cluster files",
        ClusterSpec,
        "What `--cluster machine.yaml` reads: written by `toolkit calibrate`, or by hand where no name such as "
        "`8xA100-80GB` says it. `device` may be a name of the catalog, and `node` the name of a node type; both fill "
        "in what the file does not give.",
    ),
    "model": (
        "Model shapes",
        ModelSpec,
        "What the planner knows of a model, read from its `config.json` or from the catalog, and kept in `plan.json`.",
    ),
    "plan": (
        "plan.json",
        Plan,
        "Every decision of a run with its predicted memory and time. It is read by the ranks and by `toolkit report`, "
        "and not meant to be edited: plan again instead. `model`, `cluster` and `workload` have pages of their own: "
        "[model](model.md), [cluster](cluster.md), [workload](recipe.md#workload).",
    ),
}
_OWN_PAGES: dict[type[BaseModel], str] = {ModelSpec: "model.md", ClusterSpec: "cluster.md"}


def reference(name: str) -> str:
    """The Markdown of one file's page."""
    title, spec, introduction = PAGES[name]
    return page(title, introduction, *(_section(one, name) for one in sections(spec)))


def sections(spec: type[BaseModel]) -> list[Section]:
    """The model, and those inside it in the order of their keys, each where it first stands."""
    found = [Section("", spec)]
    for place in found:
        for name, field in place.spec.model_fields.items():
            path = f"{place.path}.{name}".lstrip(".")
            for inner in models_in(field.annotation):
                is_known = inner in {one.spec for one in found}
                if not is_known and not (spec is Plan and (inner in _OWN_PAGES or name == "workload")):
                    found.append(Section(path, inner))
    return sorted(found, key=lambda one: _order(spec, one.path))


def _order(spec: type[BaseModel], path: str) -> tuple[int, ...]:
    """Places of the path's keys in their models."""
    places: list[int] = []
    current: type[BaseModel] | None = spec
    for part in filter(None, path.split(".")):
        names = list(current.model_fields) if current else []
        places.append(names.index(part) if part in names else len(names))
        inside = list(models_in(current.model_fields[part].annotation)) if current and part in names else []
        current = inside[0] if inside else None
    return tuple(places)


def _section(section: Section, file: str) -> str:
    heading = f"## {section.path}\n\n" if section.path else ""
    said = plain(" ".join((section.spec.__doc__ or "").split("\n\n")[0].split()))
    rows = [_row(section, name, field, file) for name, field in section.spec.model_fields.items()]
    return f"{heading}{said}\n\n" + table(("Key", "Type", "Default", "Allowed", "Unit", "Meaning"), rows)


def _row(section: Section, name: str, field: FieldInfo, file: str) -> tuple[str, ...]:
    meaning = plain(" ".join((field.description or "").split()))
    words = type_words(field.annotation)
    unit = unit_of(name) if "number" in words else ""
    inner = next(iter(models_in(field.annotation)), None)
    if inner is not None:
        words = _link(inner, f"{section.path}.{name}".lstrip("."), words, file)
    return code(name), words, default(field), allowed(field), unit, meaning


def _link(inner: type[BaseModel], path: str, words: str, file: str) -> str:
    """To the table of the model inside."""
    root = PAGES[file][1]
    if root is Plan and inner in _OWN_PAGES:
        return f"[{words}]({_OWN_PAGES[inner]})"
    if root is Plan and path == "workload":
        return f"[{words}](recipe.md#workload)"
    first = next(one.path for one in sections(root) if one.spec is inner)
    return f"[{words}](#{re.sub(r'[^a-z0-9_-]', '', first.lower())})"
