"""The documentation site builds strictly, holds what the code has, and needs no network."""

import functools
import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml

from toolkit.__main__ import command_line
from toolkit.check.rule_texts import RULE_TEXTS
from toolkit.planner.plan import Plan
from toolkit.planner.rules import ENGINES
from toolkit.specs.base import Spec
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.optimizer import OPTIMIZERS
from toolkit.specs.recipe import Recipe
from toolkit.specs.workload import Workload

pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CPU_SECONDS = 20.0


def mkdocs_build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    before = os.times()
    done = mkdocs_build(ROOT / "mkdocs.yml", folder)
    after = os.times()
    assert done.returncode == 0, done.stderr
    # CPU time, which other programs do not stretch.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent <= CPU_SECONDS
    return folder


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def nav_leaves(entries: list[Any]) -> list[str]:
    leaves = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        leaves += nav_leaves(value) if isinstance(value, list) else [value]
    return leaves


def test_every_page_of_docs_is_in_the_navigation() -> None:
    listed = nav_leaves(yaml.safe_load(text_of(ROOT / "mkdocs.yml"))["nav"])
    # The notes of decisions are added by docs/site_hook.py.
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert written - set(listed) == set(), "add these pages to `nav` of mkdocs.yml"
    assert "decisions/" in listed
    assert len(listed) == len(set(listed))


def test_every_decision_has_its_page(site: Path) -> None:
    index = text_of(site / "decisions" / "index.html")
    for note in (DOCS / "decisions").glob("[0-9]*.md"):
        assert (site / "decisions" / f"{note.stem}.html").is_file()
        assert f"{note.stem}.html" in index


@pytest.mark.parametrize(
    ("page", "spec"), [("recipe", Recipe), ("cluster", ClusterSpec), ("model", ModelSpec), ("plan", Plan)]
)
def test_every_key_is_in_the_reference(site: Path, page: str, spec: type[Spec]) -> None:
    shown = text_of(site / "reference" / f"{page}.html")
    rows = {
        found[1]: found[0] for found in re.finditer(r"<tr>\s*<td><code>(\w+)</code></td>.*?</tr>", shown, re.DOTALL)
    }
    seen = 0
    for model in models_of(spec, without=(ModelSpec, ClusterSpec, Workload) if spec is Plan else ()):
        for name, field in model.model_fields.items():
            assert name in rows, f"{model.__name__}.{name}"
            seen += 1
            first = " ".join((field.description or "").split("`")[0].split())[:40]
            assert html.escape(first, quote=False) in " ".join(shown.split()), f"{model.__name__}.{name}: {first}"
    assert seen > 15


def models_of(spec: type[Spec], *, without: tuple[type[Spec], ...] = ()) -> list[type[Spec]]:
    """The model and those inside it; a plan's model, cluster and workload have pages of their own."""
    found = [spec]
    for field in spec.model_fields.values():
        inside = (field.annotation, *getattr(field.annotation, "__args__", ()))
        for one in inside:
            if isinstance(one, type) and issubclass(one, Spec) and one not in without:
                found += models_of(one, without=without)
    return found


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    shown = text_of(site / "reference" / "commands.html")
    group: Any = typer.main.get_command(command_line())
    assert len(group.commands) > 8
    for name, command in group.commands.items():
        part = shown.split(f'id="toolkit-{name}"')[1].split("<h2")[0]
        for one in command.params:
            for option in (*one.opts, *one.secondary_opts):
                shown_as = one.metavar if one.metavar and not option.startswith("-") else option
                assert shown_as in part or option == "--help", f"{name} {option}"


def test_engines_optimizers_and_rules_are_in_the_reference(site: Path) -> None:
    engines, rules = (text_of(site / "reference" / f"{page}.html") for page in ("engines", "check-rules"))
    for name in (*ENGINES, *OPTIMIZERS):
        assert f"<code>{name}</code>" in engines
    for name in RULE_TEXTS:
        assert f"<code>{name}</code>" in rules
    # Verdicts are the planner's: tensor parallelism loses adapters, and says so.
    assert "engine zero loses the adapters where it divides layers" in engines


def test_costs_are_the_planners(site: Path) -> None:
    from toolkit.planner import api

    shown = text_of(site / "costs.html")
    strategy = {"zero_stage": 3, "activation_checkpointing": "full"}
    work = {"seq_len": 4096, "global_batch": 64}
    made = api.estimate("llama-3.1-8b", "8xA100-80GB", work=work, strategy=strategy)
    assert f"<strong>{made.memory.total_bytes / 2**30:.1f}</strong>" in shown
    assert f"<strong>{made.time.step_seconds:.2f}</strong>" in shown
    assert "<!-- table" not in shown
    assert "<!-- drawing" not in shown
    drawings = set(re.findall(r'src="(pictures/[\w-]+\.svg)', shown))
    assert len(drawings) >= 20
    for drawing in drawings:
        assert "<svg" in text_of(site / drawing)[:2000]


class Links(HTMLParser):
    """Anchors of a page, where it leads to, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.targets.append(given["href"] or "")
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loads.append(given["src"] or "")
        if tag == "link" and given.get("rel") != "canonical" and given.get("href"):
            self.loads.append(given["href"] or "")


@functools.cache
def links_of(page: Path) -> Links:
    parser = Links()
    parser.feed(text_of(page))
    return parser


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    faults, seen = [], 0
    for page in sorted(site.rglob("*.html")):
        for target in links_of(page).targets + links_of(page).loads:
            parts = urlsplit(target)
            if parts.scheme or page.name == "404.html":
                continue
            seen += 1
            meant = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not meant.is_file():
                faults.append(f"{page.relative_to(site)}: {target}")
            elif parts.fragment and meant.suffix == ".html":
                known = links_of(meant).anchors | {""}
                if unquote(parts.fragment) not in known:
                    faults.append(f"{page.relative_to(site)}: {target}")
    assert not faults
    assert seen > 1000


def test_nothing_is_fetched_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        outside = [address for address in links_of(page).loads if urlsplit(address).scheme or address.startswith("//")]
        assert not outside, page.name
        # For these the theme loads scripts of others.
        assert 'class="mermaid"' not in text_of(page), f"{page.name}: draw it, mermaid comes from the network"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", text_of(style)), style.name


def test_the_search_works_without_a_server(site: Path) -> None:
    index = text_of(site / "search" / "search_index.js")
    assert index.startswith("var __index =")
    for words in ("Check batch related parameters", "gradient_clipping", "toolkit estimate"):
        assert words in index
    assert "iframe-worker.js" in text_of(site / "index.html")


def test_a_browser_searches_a_page_that_was_opened_as_a_file(site: Path, tmp_path: Path) -> None:
    browsers = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    if (browser := next(browsers, None)) is None:
        pytest.skip("no Chromium here")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    address = f"file://{site}/index.html?q=activation+checkpointing"
    done = subprocess.run([*words, "--dump-dom", address], capture_output=True, text=True, timeout=100, check=False)
    assert re.search(r"[0-9]+ matching documents", done.stdout), done.stderr[-2000:]
    assert "md-search-result__link" in done.stdout
    assert "CONSOLE" not in done.stderr, "nothing is said on the console, and nothing asked of the network"


@pytest.mark.parametrize("fault", ["[a](nowhere.md)", "[a](other.md#nowhere)", "[a](/absolute.md)"])
def test_a_dead_link_fails_the_build(tmp_path: Path, fault: str) -> None:
    given = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Page\n\n{fault}\n")
    (docs / "other.md").write_text("# Other\n")
    wanted = {name: given[name] for name in ("site_name", "strict", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**wanted, "theme": "mkdocs", "plugins": []}))
    done = mkdocs_build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "WARNING -  Doc file 'index.md' contains" in done.stderr
