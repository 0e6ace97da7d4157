"""One function per kind of question: draws values, picks a phrasing, computes the answer.

A Question carries the values it asks about apart from their wording, so that a split can hold out the values: a sum
must not come back in other words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from toolkit.demo.words import (
    DAYS_PER_MONTH,
    FIRST_NAMES,
    ITEMS,
    LAST_NAMES,
    MAIL_DOMAINS,
    MONTHS,
    NUMBERS_BELOW_TWENTY,
    SPANISH_ADJECTIVES,
    SPANISH_NOUNS,
    TENS,
    UNITS,
)


@dataclass(frozen=True)
class Question:
    """A prompt, its only right answer, and what it asks about."""

    prompt: str
    completion: str
    values: tuple[int | str, ...]
    """Equal for two questions of one kind that differ in wording or in the order of interchangeable values only."""


def addition(rng: Random) -> Question:
    """A two-digit number plus whole tens, up to 99."""
    b = rng.randrange(1, 9)
    a = rng.randrange(10, 100 - 10 * b)
    phrasing = rng.choice(("What is {a} + {b}?", "Add {a} and {b}.", "Work out {a} plus {b}."))
    return Question(phrasing.format(a=a, b=10 * b), str(a + 10 * b), (min(a, 10 * b), max(a, 10 * b)))


def comparison(rng: Random) -> Question:
    """Two two-digit numbers with the sign that belongs between them."""
    a, b = rng.sample(range(10, 100), 2)
    phrasing = rng.choice(("Compare {a} and {b}.", "Put < or > between {a} and {b}.", "Write < or >: {a} and {b}."))
    return Question(phrasing.format(a=a, b=b), f"{a} {'<' if a < b else '>'} {b}", (min(a, b), max(a, b)))


def parity(rng: Random) -> Question:
    """Even or odd."""
    number = rng.randrange(100, 1000)
    phrasing = rng.choice(("Even or odd: {n}?", "Which is it, even or odd: {n}?", "Tell me the parity of {n}."))
    return Question(phrasing.format(n=number), "odd" if number % 2 else "even", (number,))


def clock_time(rng: Random) -> Question:
    """Twelve-hour to 24-hour time."""
    hour, minute = rng.randrange(24), rng.randrange(60)
    twelve_hour = f"{(hour - 1) % 12 + 1}:{minute:02d} {'AM' if hour < 12 else 'PM'}"
    phrasing = rng.choice(("24-hour time: {t}?", "To 24-hour time: {t}.", "On a 24-hour clock: {t}?"))
    return Question(phrasing.format(t=twelve_hour), f"{hour:02d}:{minute:02d}", (hour, minute))


def iso_date(rng: Random) -> Question:
    """A date in words to ISO 8601."""
    year, month, day = _date(rng)
    phrasing = rng.choice(("ISO date for {date}?", "In ISO format: {date}.", "To ISO: {date}."))
    written = f"{day} {MONTHS[month - 1]} {year}"
    return Question(phrasing.format(date=written), f"{year}-{month:02d}-{day:02d}", (year, month, day))


def written_date(rng: Random) -> Question:
    """An ISO 8601 date to words."""
    year, month, day = _date(rng)
    phrasing = rng.choice(("Spell out {date}.", "Written date: {date}.", "Which date is {date}?"))
    prompt = phrasing.format(date=f"{year}-{month:02d}-{day:02d}")
    return Question(prompt, f"{day} {MONTHS[month - 1]} {year}", (year, month, day))


def unit_conversion(rng: Random) -> Question:
    """A whole number of a larger unit in a smaller one."""
    large, small, factor = rng.choice(UNITS)
    amount = rng.randrange(2, 100)
    phrasing = rng.choice(
        ("How many {small} are {n} {large}?", "In {small}, how much is {n} {large}?", "To {small}: {n} {large}.")
    )
    prompt = phrasing.format(n=amount, large=large, small=small)
    return Question(prompt, f"{amount * factor} {small}", (large, small, amount))


def percentage(rng: Random) -> Question:
    """A percentage as a decimal number."""
    number = rng.randrange(101, 1000)
    if number % 10 == 0:
        number += 1
    phrasing = rng.choice(("As a decimal: {p}%.", "Write {p}% as a decimal.", "Which decimal is {p}%?"))
    return Question(phrasing.format(p=f"{number // 10}.{number % 10}"), f"0.{number}", (number,))


def number_words(rng: Random) -> Question:
    """A three-digit number in words."""
    number = rng.randrange(100, 1000)
    phrasing = rng.choice(("Write in words: {n}.", "Spell out the number {n}.", "How do you say {n}?"))
    return Question(phrasing.format(n=number), _spelled(number), (number,))


def json_record(rng: Random) -> Question:
    """A person as a JSON object."""
    name, age = rng.choice(FIRST_NAMES), rng.randrange(10, 100)
    phrasing = rng.choice(("To JSON: {name}, {age}.", "As JSON: {name} is {age}.", "JSON record: {name}, {age}."))
    return Question(phrasing.format(name=name, age=age), f'{{"name": "{name}", "age": {age}}}', (name, age))


def counting(rng: Random) -> Question:
    """The length of a list."""
    items = rng.sample(ITEMS, rng.randrange(2, 7))
    phrasing = rng.choice(("How many items: {items}?", "Count the words: {items}.", "How long is this list: {items}?"))
    return Question(phrasing.format(items=", ".join(items)), str(len(items)), tuple(sorted(items)))


def mail_address(rng: Random) -> Question:
    """A mail address from a name and a domain."""
    first, last, domain = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES), rng.choice(MAIL_DOMAINS)
    phrasing = rng.choice(("Email of {first} {last} at {domain}?", "Email address: {first} {last}, {domain}."))
    answer = f"{first}.{last}@{domain}".lower()
    return Question(phrasing.format(first=first, last=last, domain=domain), answer, (first, last, domain))


def initials(rng: Random) -> Question:
    """The initials of a person."""
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    phrasing = rng.choice(
        (
            "What are the initials of {first} {last}?",
            "Give the initials of {first} {last}.",
            "Initials: {first} {last}?",
        )
    )
    return Question(phrasing.format(first=first, last=last), f"{first[0]}. {last[0]}.", (first, last))


def translation(rng: Random) -> Question:
    """English to Spanish: the adjective follows the noun and takes its gender."""
    noun, spanish = rng.choice(SPANISH_NOUNS)
    adjective, masculine, feminine = rng.choice(SPANISH_ADJECTIVES)
    phrasing = rng.choice(
        ("Translate into Spanish: the {a} {n}.", "In Spanish: the {a} {n}?", "How do you say the {a} {n} in Spanish?")
    )
    answer = f"{spanish} {masculine if spanish.startswith('el ') else feminine}"
    return Question(phrasing.format(a=adjective, n=noun), answer, (noun, adjective))


def _date(rng: Random) -> tuple[int, int, int]:
    """Year, month from 1, day from 1."""
    month = rng.randrange(12)
    return rng.randrange(1950, 2050), month + 1, rng.randrange(DAYS_PER_MONTH[month]) + 1


def _spelled(number: int) -> str:
    """British English words for 0 <= number < 1000."""
    if number < 20:
        return NUMBERS_BELOW_TWENTY[number]
    if number < 100:
        ten = TENS[number // 10 - 2]
        return f"{ten}-{NUMBERS_BELOW_TWENTY[number % 10]}" if number % 10 else ten
    hundreds = f"{NUMBERS_BELOW_TWENTY[number // 100]} hundred"
    return f"{hundreds} and {_spelled(number % 100)}" if number % 100 else hundreds


KINDS: Mapping[str, Callable[[Random], Question]] = {
    "addition": addition,
    "comparison": comparison,
    "parity": parity,
    "clock_time": clock_time,
    "iso_date": iso_date,
    "written_date": written_date,
    "unit_conversion": unit_conversion,
    "percentage": percentage,
    "number_words": number_words,
    "json_record": json_record,
    "counting": counting,
    "mail_address": mail_address,
    "initials": initials,
    "translation": translation,
}
"""Task name as it stands in the files -> its generator."""
