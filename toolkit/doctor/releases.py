"""The installed releases beside those that are tested, that work, and that compute something wrong."""

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from toolkit.check.finding import Severity
from toolkit.check.known_bad import FAULTS
from toolkit.check.releases import Release
from toolkit.doctor.finding import Finding, Section
from toolkit.errors import SpecError
from toolkit.specs.base import Spec, read_catalog

_TABLE = Path(__file__).with_name("releases.yaml")
_WHERE = "in the toolkit's own folder:"
_INSTALL = "pip install -c constraints.txt -e '.[{extras}]'"

OPTIONAL = {
    "megatron": "engine mcore: tensor, pipeline and context parallelism by Megatron-core",
    "optimizers": "optimizers lion and soap",
    "quant": "method qlora, AdamW in 8 bits or paged",
    "eval": "`toolkit evaluate`",
}
"""Extra -> what it is for; without the extra `train` nothing trains."""


class BadReleases(Spec):
    """Releases of a library with which something is wrong."""

    releases: str
    """Their range, as >=2.7,<2.10."""
    words: str
    """What is wrong."""
    severity: Severity = "note"
    """How bad that is."""


class Library(Spec):
    """What is known of a library's releases."""

    tested: str
    """The release that is tested."""
    works: str
    """The range that pyproject.toml allows."""
    extra: str | None = None
    """Of this toolkit's, that brings it; none: it is Python itself."""
    bad: tuple[BadReleases, ...] = ()
    """Releases with which something is wrong."""


def read_table() -> dict[str, Library]:
    """What is known, by the name that pip has for a library."""
    return {
        name: Library.parse(fields, source=f"{_TABLE.name}: {name}") for name, fields in read_catalog(_TABLE).items()
    }


def in_range(release: Release, wanted: str) -> bool:
    """Whether a release is in a range such as `>=0.16.1,<0.17`.

    Raises:
        SpecError: a part of the range is no comparison.
    """
    compare = {">=": release.__ge__, "<=": release.__le__, "<": release.__lt__, ">": release.__gt__}
    for part in wanted.split(","):
        if (match := re.fullmatch(r"\s*(>=|<=|<|>)\s*(\S+)\s*", part)) is None:
            raise SpecError(f"{wanted!r} is no range of releases; write >=0.16.1,<0.17")
        if not compare[match[1]](Release.parse(match[2] if "." in match[2] else f"{match[2]}.0")):
            return False
    return True


def installed_releases(table: Mapping[str, Library]) -> dict[str, str | None]:
    """Release of each library of the table in this environment; None: not installed; empty: installed in part."""
    found: dict[str, str | None] = {}
    for name in table:
        try:
            # A folder of metadata that an interrupted pip left behind has none.
            found[name] = importlib.metadata.version(name) or ""
        except (importlib.metadata.PackageNotFoundError, KeyError, TypeError):
            found[name] = None
    return found | {"python": platform.python_version()}


def examine_releases(system: str, python: tuple[int, int]) -> Section:
    """The probe."""
    table = read_table()
    installed = installed_releases(table)
    facts = {
        name: {
            "installed": release,
            "tested": table[name].tested,
            "works": table[name].works,
            "state": state_of(release, table[name]),
        }
        for name, release in installed.items()
    }
    findings = [*judge(installed, table), *missing_extras(installed, table, system=system, python=python)]
    return Section("releases", facts, tuple(findings))


def state_of(installed: str | None, library: Library) -> str:
    """One word for a release: missing, broken, bad, `too old`, `too new`, tested or untested."""
    if installed is None:
        return "missing"
    try:
        release = Release.parse(installed)
    except SpecError:
        return "broken" if not installed else "untested"
    if any(in_range(release, one.releases) and one.severity == "error" for one in library.bad):
        return "bad"
    if not in_range(release, library.works):
        lower = [part for part in library.works.split(",") if part.startswith(">=")]
        return "too new" if in_range(release, ",".join(lower)) else "too old"
    # Of Python any patch of the tested release is as good.
    same = release[: library.tested.count(".") + 1] == Release.parse(library.tested)[: library.tested.count(".") + 1]
    return "tested" if same else "untested"


def judge(installed: Mapping[str, str | None], table: Mapping[str, Library]) -> Iterator[Finding]:
    """Releases that are out of range, known to be bad, or not those that are tested."""
    other = []
    for name, release in installed.items():
        library = table[name]
        state = state_of(release, library)
        if release and state in ("too old", "too new"):
            yield _out_of_range(name, release, library)
        elif state == "broken":
            yield Finding(
                "error" if library.extra == "train" else "warning",
                "broken-install",
                f"{name}: its files are there, its release is not known; an installation was interrupted",
                f"what imports {name} fails, or runs parts of two releases",
                command=f"pip install --force-reinstall --no-deps {name}=={library.tested}",
            )
        elif release and state == "untested":
            other.append(f"{name} {release} ({library.tested})")
        if release:
            yield from _known_bad(name, release, library)
    if other:
        yield Finding(
            "note",
            "untested-releases",
            f"not the releases that are tested together: {', '.join(other)}",
            "they are within range and should work; no test has compared their numbers with one process's",
            _WHERE,
            _INSTALL.format(extras="train"),
        )


def _out_of_range(name: str, release: str, library: Library) -> Finding:
    blocks = library.extra in ("train", None)
    effect = "training fails, or gives other numbers, in ways that nobody has looked at"
    if library.extra in OPTIONAL:
        effect = f"it is not used rightly: {OPTIONAL[library.extra]}"
    if name == "python":
        remedy = "make an environment with another Python, as `python3.11 -m venv .venv`"
        return Finding("error", "release-out-of-range", f"Python {release}: needs {library.works}", effect, remedy)
    extras = "train" if library.extra == "train" else f"train,{library.extra}"
    return Finding(
        "error" if blocks else "warning",
        "release-out-of-range",
        f"{name} {release}: needs {library.works}, tested with {library.tested}",
        effect,
        _WHERE,
        _INSTALL.format(extras=extras),
    )


def _known_bad(name: str, release: str, library: Library) -> Iterator[Finding]:
    try:
        number = Release.parse(release)
    except SpecError:
        return
    for one in library.bad:
        if in_range(number, one.releases):
            told = f"{name} {release}: {one.words}"
            command = f"pip install -c constraints.txt {name}=={library.tested}"
            yield Finding(one.severity, "known-bad-release", told, "it may concern a run", command=command)
    if name == "deepspeed":
        met = [one for one in FAULTS if Release.parse(one.first) <= number < Release.parse(one.fixed)]
        if met:
            words = "; ".join(f"{one.words} ({one.issue})" for one in met)
            yield Finding(
                "error",
                "known-bad-release",
                f"deepspeed {release} has {len(met)} known faults: {words}",
                "runs whose settings meet one go on with wrong numbers; `toolkit check` says which settings do",
                command=f"pip install -c constraints.txt deepspeed=={library.tested}",
            )


def missing_extras(
    installed: Mapping[str, str | None], table: Mapping[str, Library], *, system: str, python: tuple[int, int]
) -> Iterator[Finding]:
    """What is not installed, where it could be of use on this system."""
    needed = [name for name, library in table.items() if library.extra == "train"]
    if missing := [name for name in needed if installed.get(name) is None]:
        what = "the training half" if len(missing) == len(needed) else ", ".join(missing)
        yield Finding(
            "error",
            "train-extra",
            f"{what}: not installed",
            "planning, checking and reports work; nothing trains, converts or exports on this machine",
            _WHERE,
            _INSTALL.format(extras="train"),
        )
    for extra, purpose in OPTIONAL.items():
        names = [name for name, library in table.items() if library.extra == extra and installed.get(name) is None]
        # megatron-core is for Linux and has no release for Python 3.14.
        useful = extra != "megatron" or (system == "linux" and python < (3, 14))
        if names and useful and len(missing) < len(needed):
            told = f"{', '.join(names)}: not installed"
            command = _INSTALL.format(extras=f"train,{extra}")
            yield Finding("note", f"{extra}-extra", told, f"not available: {purpose}", _WHERE, command)
