"""The repository as a reader meets it: pins, links, numbers of decisions, and nothing of the machine it was made on."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BUILT = {"__pycache__", "build", "dist", "runs", "toolkit.egg-info"}
TEXTS = {"", ".cfg", ".in", ".ipynb", ".jinja", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}

# Written so that this line does not find itself.
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|work|workspace|mnt|scratch)/[\w.-]+|[A-Z]:\\\\Users")


def files() -> Iterator[Path]:
    """Text files of the repository, without what tools leave there."""
    for path in sorted(REPOSITORY.rglob("*")):
        parts = path.relative_to(REPOSITORY).parts
        hidden = any(part.startswith(".") and part not in (".ci", ".gitignore") for part in parts)
        if path.is_file() and path.suffix in TEXTS and not hidden and not BUILT.intersection(parts):
            yield path


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


PAGES = [path for path in files() if path.suffix == ".md"]
DOCS = REPOSITORY / "docs"
# Pages that are made when the site is built.
MADE = ("decisions/index.md", "reference/")


def test_no_path_of_a_machine() -> None:
    for path in files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            found = OF_A_MACHINE.search(line)
            assert not found, f"{relative(path)}:{number}: {found and found[0]}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        meant = (page.parent / target).resolve()
        made = meant.is_relative_to(DOCS) and meant.relative_to(DOCS).as_posix().startswith(MADE)
        if "://" not in target and not target.startswith("mailto:") and not made:
            assert (page.parent / target).exists(), f"{relative(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    # `toolkit/` with a part in <> or * stands for any file.
    for named in re.findall(r"`((?:toolkit|tests|docs|ds_configs|notebooks|benchmarks|\.ci)/[\w./-]*)`", text):
        assert (REPOSITORY / named).exists(), f"{relative(page)} names {named}, which is not there"


def test_decisions_are_numbered_and_say_the_same_four_things() -> None:
    notes = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    numbers = [note.name[:4] for note in notes]
    # A gap is a note that somebody is still writing.
    assert numbers == sorted(set(numbers))
    assert all(re.fullmatch(r"\d{4}", number) for number in numbers)
    for note in notes:
        headings = re.findall(r"^## (.+)$", note.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == ["Context", "Choice", "Cost", "Measured"], note.name


def test_every_dependency_that_make_installs_is_pinned() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    extras = {extra for group in re.findall(r"-e '\.\[([\w,]+)\]'", makefile) for extra in group.split(",")}
    assert {"train", "dev"} <= extras
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_name(line) for line in constraints if "==" in line and not line.startswith("#")}
    assert {_name(one) for one in wanted} <= pinned


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement)[0].lower().replace("_", "-")


def test_the_changelog_knows_the_version() -> None:
    version = importlib.import_module("toolkit").__version__
    assert f"## [{version}]" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_one_place_starts_warm_processes() -> None:
    """The server that ranks are forked from keeps the imports of whoever starts it first."""
    named = "set_forkserver_" + "preload"
    assert [path.name for path in (REPOSITORY / "tests").rglob("*.py") if named in path.read_text()] == ["procs.py"]


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Of two with one name pytest collects the first only, and only where both are asked for."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
