"""One function per kind of question: draws values, picks a phrasing, computes the answer.

A Question carries the values it asks about apart from their wording, so that a split can hold out the values: the
sum of 47 and 38 must not come back in other words, or as 38 and 47.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from toolkit.demo.words import CITIES, DAYS_PER_MONTH, FIRST_NAMES, ITEMS, LAST_NAMES, MAIL_DOMAINS, MONTHS, UNITS


@dataclass(frozen=True)
class Question:
    """A prompt, its only right answer, and what it asks about."""

    prompt: str
    completion: str
    values: tuple[int | str, ...]
    """Equal for two questions of one kind that differ in wording or in the order of interchangeable values only."""


def addition(rng: Random) -> Question:
    a, b = rng.randrange(10, 100), rng.randrange(10, 100)
    phrasing = rng.choice(
        (
            "What is {a} + {b}?",
            "Add {a} and {b}.",
            "Work out {a} plus {b}.",
            "A shop sold {a} books on Monday and {b} on Tuesday. How many in total?",
        )
    )
    return Question(phrasing.format(a=a, b=b), str(a + b), (min(a, b), max(a, b)))


def subtraction(rng: Random) -> Question:
    b, a = sorted(rng.sample(range(10, 100), 2))
    phrasing = rng.choice(
        (
            "What is {a} - {b}?",
            "Subtract {b} from {a}.",
            "Work out {a} minus {b}.",
            "{a} seats, {b} are taken. How many are free?",
        )
    )
    return Question(phrasing.format(a=a, b=b), str(a - b), (a, b))


def comparison(rng: Random) -> Question:
    a, b = rng.sample(range(100, 1000), 2)
    larger = rng.random() < 0.5
    word = rng.choice(("larger", "bigger", "greater") if larger else ("smaller", "lower", "less"))
    phrasing = rng.choice(("Which is {word}, {a} or {b}?", "Of {a} and {b}, which number is {word}?"))
    answer = max(a, b) if larger else min(a, b)
    return Question(phrasing.format(word=word, a=a, b=b), str(answer), (min(a, b), max(a, b)))


def number_sorting(rng: Random) -> Question:
    numbers = rng.sample(range(10, 100), 3)
    phrasing = rng.choice(
        (
            "Sort these numbers: {numbers}.",
            "Put {numbers} in ascending order.",
            "Order from smallest to largest: {numbers}.",
        )
    )
    prompt = phrasing.format(numbers=_listed(numbers))
    return Question(prompt, _listed(sorted(numbers)), tuple(sorted(numbers)))


def rounding(rng: Random) -> Question:
    number = rng.randrange(100, 1000)
    phrasing = rng.choice(
        ("Round {n} to the nearest ten.", "What is {n} rounded to the nearest ten?", "To the nearest ten, what is {n}?")
    )
    return Question(phrasing.format(n=number), str((number + 5) // 10 * 10), (number,))


def parity(rng: Random) -> Question:
    number = rng.randrange(100, 1000)
    phrasing = rng.choice(("Is {n} even or odd?", "Even or odd: {n}?", "Tell me whether {n} is odd or even."))
    return Question(phrasing.format(n=number), "odd" if number % 2 else "even", (number,))


def clock_time(rng: Random) -> Question:
    hour, minute = rng.randrange(24), rng.randrange(60)
    twelve_hour = f"{(hour - 1) % 12 + 1}:{minute:02d} {'AM' if hour < 12 else 'PM'}"
    phrasing = rng.choice(
        ("Convert {t} to 24-hour time.", "Write {t} in 24-hour format.", "What is {t} on a 24-hour clock?")
    )
    return Question(phrasing.format(t=twelve_hour), f"{hour:02d}:{minute:02d}", (hour, minute))


def iso_date(rng: Random) -> Question:
    year, month = rng.randrange(1950, 2050), rng.randrange(12)
    day = rng.randrange(DAYS_PER_MONTH[month]) + 1
    written = rng.choice((f"{day} {MONTHS[month]} {year}", f"{MONTHS[month]} {day}, {year}"))
    phrasing = rng.choice(
        ("Write {date} as an ISO date.", "Convert {date} to ISO format.", "What is {date} in ISO format?")
    )
    return Question(phrasing.format(date=written), f"{year}-{month + 1:02d}-{day:02d}", (year, month, day))


def unit_conversion(rng: Random) -> Question:
    large, small, factor = rng.choice(UNITS)
    amount = rng.randrange(2, 500)
    phrasing = rng.choice(
        ("Convert {n} {large} to {small}.", "How many {small} are {n} {large}?", "Express {n} {large} in {small}.")
    )
    prompt = phrasing.format(n=amount, large=large, small=small)
    return Question(prompt, f"{amount * factor} {small}", (large, small, amount))


def json_record(rng: Random) -> Question:
    name, age = rng.choice(FIRST_NAMES), rng.randrange(10, 100)
    phrasing = rng.choice(("Write as JSON: {name}, {age}.", "Make a JSON record: {name} is {age}.", "As JSON: {name}, aged {age}."))
    return Question(phrasing.format(name=name, age=age), f'{{"name": "{name}", "age": {age}}}', (name, age))


def extraction(rng: Random) -> Question:
    name, other = rng.sample(FIRST_NAMES, 2)
    home, away = rng.sample(CITIES, 2)
    fact = rng.choice(
        (
            "{name} lives in {home} and {other} lives in {away}.",
            "{other} moved to {away}, while {name} stayed in {home}.",
        )
    )
    ask, answer = rng.choice((("Where is {name}?", home), ("Who is in {home}?", name)))
    prompt = f"{fact} {ask}".format(name=name, other=other, home=home, away=away)
    return Question(prompt, answer, tuple(sorted((f"{name} {home}", f"{other} {away}"))))


def list_reversal(rng: Random) -> Question:
    items = rng.sample(ITEMS, rng.randrange(3, 5))
    phrasing = rng.choice(
        ("Reverse this list: {items}.", "Write in reverse order: {items}.", "List backwards: {items}.")
    )
    return Question(phrasing.format(items=_listed(items)), _listed(items[::-1]), tuple(items))


def word_sorting(rng: Random) -> Question:
    items = rng.sample(ITEMS, 3)
    phrasing = rng.choice(
        (
            "Sort alphabetically: {items}.",
            "Put in alphabetical order: {items}.",
            "Order these words from A to Z: {items}.",
        )
    )
    return Question(phrasing.format(items=_listed(items)), _listed(sorted(items)), tuple(sorted(items)))


def counting(rng: Random) -> Question:
    items = rng.sample(ITEMS, rng.randrange(2, 8))
    phrasing = rng.choice(
        ("How many items: {items}?", "Count the words: {items}.", "How long is this list: {items}?")
    )
    return Question(phrasing.format(items=_listed(items)), str(len(items)), tuple(sorted(items)))


def mail_address(rng: Random) -> Question:
    first, last, domain = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES), rng.choice(MAIL_DOMAINS)
    phrasing = rng.choice(
        ("E-mail address of {first} {last} at {domain}?", "Write the e-mail address: {first} {last}, {domain}.")
    )
    answer = f"{first}.{last}@{domain}".lower()
    return Question(phrasing.format(first=first, last=last, domain=domain), answer, (first, last, domain))


def initials(rng: Random) -> Question:
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    phrasing = rng.choice(
        ("What are the initials of {first} {last}?", "Give the initials of {first} {last}.", "Initials: {first} {last}")
    )
    return Question(phrasing.format(first=first, last=last), f"{first[0]}. {last[0]}.", (first, last))


def _listed(values: list[int] | list[str]) -> str:
    return ", ".join(str(value) for value in values)


KINDS: Mapping[str, Callable[[Random], Question]] = {
    "addition": addition,
    "subtraction": subtraction,
    "comparison": comparison,
    "number_sorting": number_sorting,
    "rounding": rounding,
    "parity": parity,
    "clock_time": clock_time,
    "iso_date": iso_date,
    "unit_conversion": unit_conversion,
    "json_record": json_record,
    "extraction": extraction,
    "list_reversal": list_reversal,
    "word_sorting": word_sorting,
    "counting": counting,
    "mail_address": mail_address,
    "initials": initials,
}
"""Task name as it stands in the files -> its generator."""
