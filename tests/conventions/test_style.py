"""The house style as far as a machine can see it; CONTRIBUTING.md says it in words."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from toolkit.specs.base import Spec

PACKAGE = Path(__file__).parents[2] / "toolkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
MAX_POSITIONAL = 3
MEANINGLESS = {"base_utils", "common", "helpers", "misc", "util", "utils"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, Function)]


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def is_command(function: Function) -> bool:
    """True for a command of the command line, whose parameters are its options."""
    return any(ast.unparse(decorator).startswith("app.") for decorator in function.decorator_list)


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Dotted names of the classes, functions and methods that others may use."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def test_files_are_short() -> None:
    assert not [relative(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_FILE_LINES]


def test_functions_are_short() -> None:
    faults = []
    for path, function in FUNCTIONS:
        # A command's signature is a table of options.
        first = function.body[0].lineno if is_command(function) else function.lineno
        if (lines := (function.end_lineno or first) - first + 1) > MAX_FUNCTION_LINES:
            faults.append(f"{relative(path)}: {function.name} has {lines} lines")
    assert not faults


def test_functions_take_few_parameters() -> None:
    faults = []
    for path, function in FUNCTIONS:
        by_position = [one for one in function.args.posonlyargs + function.args.args if one.arg not in ("self", "cls")]
        every = len(by_position) + len(function.args.kwonlyargs)
        too_many_by_position = len(by_position) > MAX_POSITIONAL and not function.name.startswith("_")
        if not is_command(function) and (every > MAX_PARAMETERS or too_many_by_position):
            faults.append(f"{relative(path)}: {function.name} takes {every}, {len(by_position)} of them by position")
    assert not faults


def test_errors_are_caught_by_name() -> None:
    faults = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                # What tidies up and raises again hides nothing.
                passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if not passes_on and re.search(r"\b(everything|Exception|BaseException)\b", caught):
                    faults.append(f"{relative(path)}:{node.lineno} catches {caught}")
    assert not faults


def test_everything_public_says_what_it_is() -> None:
    faults = [relative(path) for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    for path, tree in TREES.items():
        faults += [f"{relative(path)}: {name}" for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert not faults


def test_every_field_of_a_spec_says_what_it_is() -> None:
    for path in MODULES:
        if relative(path).split("/")[0] in ("specs", "planner"):
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    specs = [spec for spec in _descendants(Spec) if spec.__module__.startswith("toolkit.")]
    assert len(specs) > 10
    bare = [
        f"{spec.__name__}.{name}" for spec in specs for name, one in spec.model_fields.items() if not one.description
    ]
    assert not bare, "a docstring under the field gives its meaning and unit; it is the text of --help and recipe.yaml"


def _descendants(spec: type[Spec]) -> Iterator[type[Spec]]:
    for one in spec.__subclasses__():
        yield one
        yield from _descendants(one)


def test_only_the_two_entrances_print_and_exit() -> None:
    for path in MODULES:
        calls = [ast.unparse(node.func) for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
        loud = {"print", "sys.exit", "exit", "os._exit"} & set(calls)
        assert not loud or relative(path) in ("__main__.py", "finetune.py"), f"{relative(path)} calls {sorted(loud)}"


def test_names_say_something() -> None:
    assert not {path.stem for path in MODULES} & MEANINGLESS
    classes = [node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if name.endswith(("Manager", "Helper", "Utils"))]


def test_public_names_are_sorted() -> None:
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                assert names == sorted(set(names)), relative(path)


def test_the_public_names_are_there_and_lazy() -> None:
    assert list(toolkit._HOMES) == toolkit.__all__
    for name in toolkit.__all__:
        assert getattr(toolkit, name).__module__ == toolkit._HOMES[name]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toolkit.nothing  # noqa: B018
