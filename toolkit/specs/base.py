"""What every spec shares: frozen, no unknown keys, and all faults of an input in one readable error."""

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from toolkit.errors import SpecError
from toolkit.specs.reading import UniqueKeys, parse_yaml, read_mapping

_SHOWN_CHARS = 200
"""What of a wrong value stands in the error: it may be a whole file."""


class Spec(BaseModel):
    """A frozen description; the docstring under each field is also its `--help` text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, source: str) -> Self:
        """Validate a mapping; `source` (a file, an option) opens every line of the error.

        Raises:
            SpecError: all faults of the input at once, unknown keys with the nearest known one.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SpecError("\n".join(f"{source}: {line}" for line in faults(cls, error))) from None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a YAML (or JSON) file.

        Raises:
            SpecError: the file is missing, is not a mapping, or has faults.
        """
        return cls.parse(read_mapping(Path(path)), source=str(path))


if typing.TYPE_CHECKING:
    _Fast = yaml.SafeLoader
else:
    _Fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _CatalogLoader(UniqueKeys, _Fast):
    """libyaml, 8 times as fast; a file of 100 000 brackets ends the whole process, so it reads only our own files."""


def read_catalog(path: Path) -> dict[str, Any]:
    """The mapping in a data file of this package.

    Raises:
        SpecError: broken syntax, with its line.
    """
    content: dict[str, Any] = parse_yaml(path.read_text(encoding="utf-8"), source=str(path), loader=_CatalogLoader)
    return content


def faults(spec: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per fault: where, what was given, what is needed."""
    return [_fault(spec, fault) for fault in _own_faults(error)]


class PlacedFault(NamedTuple):
    """A fault of an input, with its place."""

    location: tuple[str | int, ...]
    """Keys and list indices; of a branch of a union, also its name."""
    words: str
    """As in the error of `Spec.parse`."""
    nearest: str | None
    """The known key that an unknown one was taken for."""


def placed_faults(spec: type[BaseModel], given: Any) -> tuple[BaseModel | None, list[PlacedFault]]:
    """The object that an input makes, or every fault of it with its place."""
    try:
        return spec.model_validate(given), []
    except ValidationError as error:
        return None, [_placed(spec, fault) for fault in _own_faults(error)]


def _placed(spec: type[BaseModel], fault: Any) -> PlacedFault:
    known = _close(spec, fault["loc"]) if fault["type"] == "extra_forbidden" else []
    return PlacedFault(tuple(fault["loc"]), _fault(spec, fault), known[0] if known else None)


def _own_faults(error: ValidationError) -> list[Any]:
    # A default that follows from another field is not computed after a fault: no fault of its own.
    return [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]


def _fault(spec: type[BaseModel], fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    given = repr(fault["input"])
    if len(given) > _SHOWN_CHARS:
        given = f"{given[:_SHOWN_CHARS]}..."
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key `{where}`{_nearest(spec, fault['loc'])}"
        case "missing":
            return f"key `{where}` is missing; it is required"
        case "value_error":
            text = str(fault["ctx"]["error"])
            return f"`{where}`: {text}" if where else text
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"`{where}` is {given}: needs `key: value` lines"
        case "tuple_type" | "list_type":
            return f"`{where}` is {given}: needs a list, as [a, b]"
        case _:
            return f"`{where}` is {given}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _nearest(spec: type[BaseModel], location: tuple[str | int, ...]) -> str:
    known, close = _fields_at(spec, location[:-1]), _close(spec, location)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(sorted(known))}"


def _close(spec: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    return difflib.get_close_matches(str(location[-1]), _fields_at(spec, location[:-1]), n=1, cutoff=0.5)


def _fields_at(spec: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Names of the fields one level below `location`, found by walking the annotations."""
    for part in location:
        field = spec.model_fields.get(str(part))
        inner = _spec_inside(field.annotation) if field else None
        # A list index, or a union's branch name, stays on the same level.
        spec = inner or spec
    return list(spec.model_fields)


def _spec_inside(annotation: Any) -> type[BaseModel] | None:
    # In Python 3.10 `list[int]` is an instance of type too.
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        if found := _spec_inside(argument):
            return found
    return None
