"""A corrected copy of a file beside it, and what is left to its author: what `--fix` does."""

from pathlib import Path
from typing import NamedTuple

from toolkit.check.api import Question, check_document
from toolkit.check.document import read_document
from toolkit.check.finding import Placed, in_order
from toolkit.check.fix import difference, fixed, fixed_name, reread
from toolkit.check.releases import deepspeed_release
from toolkit.errors import SpecError


class Corrected(NamedTuple):
    """What became of a file."""

    path: Path
    """Of the copy; of the file itself where nothing was changed."""
    difference: str
    """From the file to the copy, as `diff -u` writes it; empty where nothing was changed."""
    remaining: list[Placed]
    """What is still wrong in the copy."""


def correct(path: Path | str, question: Question | None = None, output: Path | None = None) -> Corrected:
    """Write a copy with every finding mended whose remedy cannot be meant otherwise; no copy where there is none.

    Args:
        path: the file.
        question: what it is checked for; None: the installed release of DeepSpeed.
        output: of the copy; None: NAME.fixed.json beside the file.

    Raises:
        SpecError: the file cannot be read, or the copy not be written, or another file is in its place.
    """
    asked = question or Question(deepspeed_release(None))
    document = read_document(Path(path))
    found = list(check_document(document, asked))
    text, target = fixed(document, [one.finding for one in found]), output or fixed_name(document.path)
    if text == document.text:
        return Corrected(document.path, "", in_order(found))
    _write_new(target, text)
    remaining = check_document(reread(document, text, target), asked)
    return Corrected(target, difference(document, text, str(target)), in_order(remaining))


def _write_new(target: Path, text: str) -> None:
    """Write a corrected copy; one that is there already stays, and must be the same.

    Raises:
        SpecError: another file is there, or it cannot be written.
    """
    content = text.encode("utf-8")  # As it is: Windows would make other line ends of it.
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        if target.is_file() and target.read_bytes() == content:
            return
        raise SpecError(f"{target}: is there already; remove it, or name another with --output") from None
    except OSError as error:
        raise SpecError(f"{target}: cannot be written ({error.strerror}); name another with --output") from None
