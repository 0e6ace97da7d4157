"""Messages that docs/troubleshooting.md explains are those that the toolkit and the installed libraries say."""

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
OWN = [name for name in SECTIONS if name.startswith("The toolkit")]
LIBRARIES = ("DeepSpeed", "accelerate", "transformers", "peft", "torch")
SYSTEM = "NCCL, CUDA and the system"

# Of Python itself, of torch's C++ or of a wheel for GPUs, which are not among the sources here.
ELSEWHERE = {
    "got an unexpected keyword argument 'evaluation_strategy'",
    "CUDA out of memory. Tried to allocate",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "Expected all tensors to be on the same device, but found at least two devices",
    "element 0 of tensors does not require grad and does not have a grad_fn",
    "The client socket has timed out after",
}


def messages(section: str) -> list[str]:
    """The messages that a section's headings name."""
    found = re.findall(r"^### (?:`` ?(.+?) ?``|`(.+?)`)", SECTIONS[section], flags=re.MULTILINE)
    return [one or other for one, other in found]


@functools.cache
def texts(path: Path) -> list[str]:
    """All texts of a source, pieces of one text joined and blanks made one; an f-string's values are `...`."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace")))
    return [" ".join(_text(node).split()) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]


def _text(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values)


def parts(message: str) -> list[str]:
    """What of a message does not change."""
    found = [" ".join(part.strip(" :;,()").split()) for part in message.split("...")]
    return [part for part in found if len(part) > 2]


def says(sources: Mapping[Path, str], message: str) -> bool:
    """Whether one text of a source holds every part of the message that does not change."""
    wanted = parts(message)
    longest, words = max(wanted, key=len), " ".join(wanted).split()
    # As it stands, or wrapped between its words.
    near = [path for path, source in sources.items() if longest in source]
    near = near or [path for path, source in sources.items() if all(word in source for word in words)]
    return any(all(part in text for part in wanted) for path in near for text in texts(path))


def read(folder: Path) -> dict[Path, str]:
    """The sources of a package, without those of single models."""
    paths = [path for path in sorted(folder.rglob("*.py")) if path.relative_to(folder).parts[0] != "models"]
    return {path: path.read_text(encoding="utf-8", errors="replace") for path in paths}


def test_there_are_as_many_as_promised() -> None:
    every = [message for section in SECTIONS for message in messages(section)]
    assert len(every) == PAGE.count("\n### "), "a heading that is no message"
    assert len(every) == len(set(every)) >= 60
    assert sum(len(messages(section)) for section in OWN) >= 30
    assert set(SECTIONS) == {*OWN, *LIBRARIES, SYSTEM}


def test_every_exit_code_is_explained() -> None:
    from toolkit import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ToolkitError)]
    for code in {0, 1, *(kind.exit_code for kind in kinds)}:
        assert f"\n| {code} | " in PAGE


def test_the_toolkit_says_what_is_told_to_be_its_own() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "toolkit").rglob("*.py"))}
    missing = [message for section in OWN for message in messages(section) if not says(sources, message)]
    assert not missing


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_say_what_is_told_to_be_theirs(library: str) -> None:
    found = importlib.util.find_spec(library.lower())
    if found is None or found.origin is None:
        pytest.skip(f"{library} is not installed")
    sources = read(Path(found.origin).parent)
    missing = [message for message in messages(library) if message not in ELSEWHERE and not says(sources, message)]
    assert not missing
