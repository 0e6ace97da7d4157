"""Keys against a table of the known ones: unknown, misplaced, too new, of another type, out of range."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from toolkit.check.context import Context
from toolkit.check.finding import Edit, Finding, Location
from toolkit.check.meant import AMBIGUOUS
from toolkit.check.nearest import nearest
from toolkit.check.schema import Key, Section
from toolkit.check.value import value_faults

_LIKE = 0.6
"""Likeness from which a name is told as the most alike, though not as the one that is meant."""


class Walk(NamedTuple):
    """What is the same for every section of a file."""

    context: Context
    """The release."""
    skip: frozenset[Location]
    """Keys that another rule speaks of."""
    homes: Mapping[str, Location]
    """Key -> the only section that knows it, for keys that stand in the wrong one."""
    meant: Mapping[Location, Location] = MappingProxyType({})
    """Where a well-known wrong name stands -> the key that it stands for."""


def homes(section: Section, at: Location = ()) -> dict[str, Location]:
    """Of a whole table, the keys that one section alone knows -> where it stands."""
    found: dict[str, list[Location]] = {}
    _collect(section, at, found)
    return {name: places[0] for name, places in found.items() if len(places) == 1}


def _collect(section: Section, at: Location, found: dict[str, list[Location]]) -> None:
    for name, key in section.keys.items():
        found.setdefault(name, []).append(at)
        if key.section is not None:
            _collect(key.section, (*at, name), found)


def check_keys(content: Mapping[str, Any], section: Section, walk: Walk, *, at: Location = ()) -> Iterator[Finding]:
    """Faults of one object and of those inside it.

    Args:
        content: the object.
        section: its known keys.
        walk: what is the same for the whole file.
        at: where the object stands.
    """
    for given, value in content.items():
        name = str(given)
        here = (*at, name)
        if here in walk.skip:
            continue
        known = section.find(name)
        if known is None:
            yield from _unknown(name, section, walk, at=at)
            continue
        canonical = (section.aliases or {}).get(name)
        if canonical is not None and canonical in content:
            told = f"is another name of `{canonical}`, which is given too"
            yield Finding("error", "repeated-key", here, told, "one of them is refused or lost", "keep one of the two")
        if known.since and not walk.context.since(known.since):
            yield _too_new(here, known, section, walk.context)
            continue
        if known.section is not None and isinstance(value, dict):
            yield from check_keys(value, known.section, walk, at=here)
        elif value != "auto" or known.kind == "text":
            yield from value_faults(value, known, strict=section.strict, at=here)


def _too_new(here: Location, known: Key, section: Section, context: Context) -> Finding:
    refused = _refuses(section, context)
    return Finding(
        "error" if refused else "warning",
        "too-new-key",
        here,
        f"came with DeepSpeed {known.since}; this file is checked for {context.deepspeed}",
        "the file is refused at start" if refused else "it is ignored without a word",
        f"install deepspeed>={known.since}, or remove the key",
    )


def _unknown(name: str, section: Section, walk: Walk, *, at: Location) -> Iterator[Finding]:
    if section.unknown == "open" or (section.unknown == "ignored" and name.startswith(("_", "//", "#", "$"))):
        return
    here = (*at, name)
    refused = _refuses(section, walk.context)
    effect = "the file is refused at start" if refused else "it is ignored without a word"
    if here in walk.meant:
        yield _meant(here, walk.meant[here], effect)
        return
    home = walk.homes.get(name)
    if home is not None and home != at and at[-1:] != (name,):
        place = f"inside `{'.'.join(str(part) for part in home)}`" if home else "at the top level"
        remedy = f"move it {place}" if home else "move it to the top level"
        yield Finding("error", "misplaced-key", here, f"belongs {place}", effect, remedy)
        return
    known = [one for one in section.names() if (found := section.find(one)) and _there(found, walk.context)]
    if close := nearest(name, known):
        effect += "" if refused else f", and `{close}` keeps its default"
        told, remedy = f"unknown key; did you mean `{close}`?", f"write `{close}`"
        yield Finding("error", "unknown-key", here, told, effect, remedy, Edit("rename", close))
        return
    like = nearest(name, known, cutoff=_LIKE)
    remedy = f"remove it; the most alike of the known keys is `{like}`" if like else "remove it"
    yield Finding("error" if refused else "warning", "unknown-key", here, "unknown key", effect, remedy)


def _meant(here: Location, key: Location, effect: str) -> Finding:
    named = ".".join(map(str, key))
    if here[:-1] == key[:-1]:
        edit = None if here[-1] in AMBIGUOUS else Edit("rename", str(key[-1]))
        told = f"unknown key; DeepSpeed's name of it is `{named}`"
        return Finding("error", "unknown-key", here, told, effect, f"write `{key[-1]}`", edit)
    told = f"unknown key; DeepSpeed reads `{named}`"
    return Finding("error", "misplaced-key", here, told, effect, f"write it as `{named}`")


def _refuses(section: Section, context: Context) -> bool:
    return section.unknown == "refused" and (not section.refuses_since or context.since(section.refuses_since))


def _there(key: Key, context: Context) -> bool:
    return not key.since or context.since(key.since)
