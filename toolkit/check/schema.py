"""How a table of known keys is written: sections of keys, each with type, range, default and since when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "flag", "int", "number", "text", "choice", "numbers", "list", "texts", "words", "mapping", "section", "open",
    "never",
]  # fmt: skip
"""`words` is a text or a list of them. `open` is whatever: something that the reader hands on. `never` is what no file
can hold, as a dtype of torch."""
Unknown = Literal["refused", "ignored", "open"]
"""What the reader does with a key that it does not know; `open` means that it has no list of them."""


@dataclass(frozen=True)
class Key:
    """One known key."""

    kind: Kind
    default: Any = None
    low: float | None = None
    high: float | None = None
    above: bool = False
    """Whether `low` itself is too low."""
    below: bool = False
    """Whether `high` itself is too high."""
    choices: tuple[str, ...] = ()
    section: "Section | None" = None
    since: str = ""
    """The release that brought it, where it is newer than what people still run."""
    nullable: bool = False
    """Whether null is taken although there is a default; where there is none, it is."""
    converted: bool = False
    """Whether the reader converts this value, although it converts none of its section."""


@dataclass(frozen=True)
class Section:
    """The known keys of one object."""

    keys: Mapping[str, Key]
    unknown: Unknown = "ignored"
    refuses_since: str = ""
    """The first release that refuses unknown keys, where older ones ignored them."""
    strict: bool = True
    """The reader does not convert: "4" for 4 fails or counts as true. False: it does, as pydantic does."""
    aliases: Mapping[str, str] | None = None
    """Other names that are read too -> the names in `keys`."""

    def names(self) -> list[str]:
        """All that is read here."""
        return [*self.keys, *(self.aliases or ())]

    def find(self, name: str) -> Key | None:
        """The key of that name or alias."""
        return self.keys.get((self.aliases or {}).get(name, name))


def flag(default: bool | None = False, *, since: str = "") -> Key:
    """True or false."""
    return Key("flag", default, since=since)


def whole(default: int | None = None, *, low: float | None = None, above: bool = False, since: str = "") -> Key:
    """A whole number; 5e8 is one."""
    return Key("int", default, low=low, above=above, since=since)


def number(
    default: float | None = None, *, low: float | None = None, high: float | None = None, above: bool = False,
    since: str = "",
) -> Key:  # fmt: skip
    """Any number."""
    return Key("number", default, low=low, high=high, above=above, since=since)


def text(default: str | None = None, *, since: str = "") -> Key:
    """Text."""
    return Key("text", default, since=since)


def one_of(*choices: str, default: str | None = None, since: str = "") -> Key:
    """One of a few words."""
    return Key("choice", default, choices=choices, since=since)


def part(section: Section, *, since: str = "", nullable: bool = False) -> Key:
    """An object with keys of its own."""
    return Key("section", section=section, since=since, nullable=nullable)


NUMBERS = Key("numbers")
TEXTS = Key("texts", nullable=True)
WORDS = Key("words", default=())
OPEN = Key("open")
