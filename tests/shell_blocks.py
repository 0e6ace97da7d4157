"""Commands of Markdown pages, as a reader types them."""

import re
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """One line of a ```bash block, continuation lines joined, its comment left out."""

    words: str
    exit_code: int = 0
    """Where the comment says `exit code 1`, that one."""


def commands(page: Path) -> list[Command]:
    """Lines of all ```bash blocks of a page, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [_command(line) for line in lines if line.strip() and not line.startswith("#")]


def _command(line: str) -> Command:
    words, *comment = re.split(r"\s+#", line, maxsplit=1)
    wanted = re.search(r"exit code (\d+)", comment[0]) if comment else None
    return Command(words.strip(), int(wanted[1]) if wanted else 0)
