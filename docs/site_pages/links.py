"""Links of pages that are read in the repository too: what the site holds keeps its link, the rest keeps its words."""

import os
import posixpath
import re
from collections.abc import Mapping

_LINK = re.compile(r"(?<!!)\[(?P<words>[^\]\[]+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)


def with_links_of_the_site(text: str, *, source: str, uri: str, pages: Mapping[str, str]) -> str:
    """The page with the links that it has on the site.

    Args:
        text: Markdown.
        source: place of the page in the repository, as `docs/check.md`.
        uri: its place on the site, as `check.md`.
        pages: place in the repository -> place on the site, of all files and folders that the site holds.
    """
    folder = posixpath.dirname(source)

    def moved(link: re.Match[str]) -> str:
        if "://" in link["target"] or link["target"].startswith("mailto:"):
            return link[0]
        meant = posixpath.normpath(posixpath.join(folder, link["target"]))
        if meant not in pages:
            return link["words"]
        target = os.path.relpath(pages[meant], posixpath.dirname(uri) or ".")
        return f"[{link['words']}]({target}{link['anchor'] or ''})"

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(moved, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(moved, text[end:])])
