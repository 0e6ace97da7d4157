"""YAML and JSON that others wrote: read without running anything, within bounds of size, depth and expansion."""

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from toolkit.errors import SpecError

MAX_YAML_BYTES = 256 * 1024
"""The largest file that `toolkit calibrate` writes has 11 KiB; PyYAML takes about two seconds for this much."""
MAX_JSON_BYTES = 16 * 1024**2
"""A plan has 43 KiB, the index of a model of 405B parameters 110 KiB."""
MAX_NODES = 100_000
"""Values of a YAML file, each counted as often as aliases repeat it: nine lines can mean 10^9 of them."""

_MAX_DIGITS = 400
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class NotUtf8(SpecError):
    """A file is in another encoding, or no text; `content` is what it holds."""

    def __init__(self, path: Path, content: bytes):
        super().__init__(f"{path}: not UTF-8 text; give a YAML or JSON file")
        self.content = content


class UniqueKeys(yaml.constructor.SafeConstructor):
    """Refuses a key given twice; safe_load itself keeps the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key `{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class BoundedLoader(UniqueKeys, yaml.SafeLoader):
    """Counts while it reads: what aliases repeat is small in memory, but not once it is validated or shown."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """A scalar; a number of thousands of signs is refused."""
        # PyYAML multiplies 1:00:00:... out, and nothing can print the number.
        if node.tag in _NUMBERS and len(node.value) > _MAX_DIGITS:
            problem = f"a number of {len(node.value):,} signs"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_scalar(node)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, its size counted; aliases that repeat too much are refused."""
        repeats = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is not None and not repeats:
            self._sizes[id(node)] = self._size(node)
        return node

    def _size(self, node: yaml.Node) -> int:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        # A node that is still being read has no size yet: it stands inside itself.
        sizes = [self._sizes.get(id(part), MAX_NODES) for part in inner]
        if (size := 1 + sum(sizes)) > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values, aliases written out"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return size


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file: JSON where its name ends in .json, else YAML.

    Raises:
        SpecError: missing or too large, broken syntax (with its line) or not a mapping.
    """
    if path.suffix.lower() == ".json":
        return read_json(path, remedy="mend the line")
    content = parse_yaml(bounded_text(path, MAX_YAML_BYTES), source=str(path))
    if not isinstance(content, dict):
        raise SpecError(f"{path}: holds {type(content).__name__}, needs `key: value` lines")
    return content


def parse_yaml(text: str, *, source: str, loader: type[yaml.SafeLoader] = BoundedLoader) -> Any:
    """The value of a YAML text; `source` opens an error's message.

    Raises:
        SpecError: broken syntax (with its line), a tag that would make an object, or too many values.
    """
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{line}: not valid YAML ({problem[:200]}); mend the line") from None
    except (ValueError, RecursionError) as error:  # PyYAML lets them out: the date 2001-99-99, thousands of brackets.
        raise SpecError(f"{source}: holds a value that YAML cannot read ({error}); put it in quotes") from None


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The object in a JSON file: every key once, every number finite.

    Args:
        path: the file.
        remedy: ends the message about a broken one.

    Raises:
        SpecError: missing or too large, broken syntax (with its line) or not an object.
    """
    try:
        content = parse_json(bounded_text(path, MAX_JSON_BYTES))
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not usable JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: holds a {type(content).__name__}, needs an object with keys; {remedy}")
    return content


def parse_json(text: str) -> Any:
    """The value of a JSON text: every key once, every number finite.

    Raises:
        ValueError: broken syntax (JSONDecodeError, with its line), a key given twice, NaN or Infinity.
        RecursionError: too many brackets inside each other.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_number, parse_float=_finite)


def bounded_text(path: Path, max_bytes: int, *, with_mark: bool = False) -> str:
    """The text of a file that is not larger than it may be, without a byte-order mark unless it is asked for.

    Raises:
        NotUtf8: it is not.
        SpecError: missing, unreadable, or larger.
    """
    try:
        with path.open("rb") as file:
            # Read, not asked for: a device or a pipe has no size.
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give a readable file") from None
    if len(content) > max_bytes:
        raise SpecError(f"{path}: has more than {max_bytes:,} bytes, which no such file needs; give the right file")
    try:
        return content.decode("utf-8" if with_mark else "utf-8-sig")
    except UnicodeDecodeError:
        raise NotUtf8(path, content) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"key `{key}` is given twice")
        content[key] = value
    return content


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)
