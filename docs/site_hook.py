"""What mkdocs calls while it builds the site: adds the pages that are made from the code, and mends links.

`mkdocs.yml` names this file; the work is done in docs/site_pages.
"""

import sys
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parent
# mkdocs runs this file alone; the examples of `toolkit check` are the cases of its tests.
sys.path[:0] = [str(path) for path in (_DOCS, _DOCS.parent, _DOCS.parent / "tests") if str(path) not in sys.path]

from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402

from site_pages import decisions  # noqa: E402
from site_pages.drawings import drawing  # noqa: E402
from site_pages.links import with_links_of_the_site  # noqa: E402
from site_pages.pages import GENERATED, INCLUDED, REPOSITORY, drawn, filled, places  # noqa: E402

_SOURCES = {uri: source for source, uri in INCLUDED.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every note of decisions/ is in the navigation."""
    notes: list[Any] = [{"All decisions": "decisions/index.md"}]
    notes += [{decisions.title(path): f"decisions/{path.name}"} for path in decisions.notes()]
    for entry in config.nav or ():
        if isinstance(entry, dict) and entry.get("Decisions") == "decisions/":
            entry["Decisions"] = notes
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages and drawings that no file of docs/ holds."""
    pages = {uri: make() for uri, make in GENERATED.items()}
    pages |= {uri: (REPOSITORY / source).read_text(encoding="utf-8") for source, uri in INCLUDED.items()}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for path in (REPOSITORY / "ds_configs").glob("*.json"):
        files.append(File.generated(config, f"ds_configs/{path.name}", abs_src_path=str(path)))
    written = [file.content_string for file in files.documentation_pages()]
    for name in sorted(set().union(*map(drawn, written))):
        for page, svg in drawing(name).items():
            files.append(File.generated(config, f"pictures/{name}-{page}.svg", content=svg))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tables and drawings in their places, and links as the site has them."""
    uri = page.file.src_uri
    source = _SOURCES.get(uri, f"docs/{uri}")
    return with_links_of_the_site(filled(markdown, uri=uri), source=source, uri=uri, pages=places())
