"""The page in a real browser: it draws, answers the pointer, obeys its controls, says nothing and asks for nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.report.page.document import document
from toolkit.report.record import read_records
from toolkit.report.results import measured
from unit.report.conftest import MakeRun, step_lines

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no chromium with its chromedriver here"),
    pytest.mark.timeout(120),
]

# Pixels of a chart's canvas that are not empty, and a sum that is another one where anything looks different.
INK = """
const canvas = document.querySelector(arguments[0] + " canvas");
if (!canvas) return [0, 0];
const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
const context = copy.getContext("2d", { willReadFrequently: true });  // reading the chart itself would be complained of
context.drawImage(canvas, 0, 0);
const pixels = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
const inked = pixels.reduce((count, pixel) => count + (pixel !== 0), 0);
return [inked, pixels.reduce((sum, pixel) => (31 * sum + pixel) % 1000003, 7)];
"""
# A pointer at a part of a chart's width, in the middle of its height.
POINT = """
const over = document.querySelector(arguments[0] + " .u-over"), box = over.getBoundingClientRect();
return [box.left + box.width * arguments[1], box.top + box.height / 2];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Without a sandbox, as root may have none; the pages are this test's own.
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Opened:
    """A page in the browser."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        self._drain()
        browser.get(path.as_uri())
        self.settle()

    def settle(self) -> None:
        """Until what was asked for is drawn: two frames later."""
        frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self.browser.execute_async_script(frames)

    def run(self, script: str, *words: Any) -> Any:
        """The value of a script."""
        return self.browser.execute_script(script, *words)

    def ink(self, chart: str) -> tuple[int, int]:
        """How much is drawn in a chart, and a sum over it."""
        count, total = self.run(INK, chart)
        return count, total

    def click(self, selector: str) -> None:
        """On the first such element."""
        self.run("document.querySelector(arguments[0]).click()", selector)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        """A value of an input or a list."""
        self.run(
            "const one = document.querySelector(arguments[0]); one.value = arguments[1];"
            "for (const kind of ['input', 'change']) one.dispatchEvent(new Event(kind, { bubbles: true }))",
            selector,
            value,
        )
        self.settle()

    def point(self, chart: str, *parts: float, button: str = "none") -> None:
        """Move to the parts of a chart's width, the button held down in between."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })", chart)
        places = [self.run(POINT, chart, part) for part in parts]
        kinds = ["mouseMoved", *(["mousePressed"] if button != "none" else [])]
        events = [(kind, places[0]) for kind in kinds] + [("mouseMoved", place) for place in places[1:]]
        events += [("mouseReleased", places[-1])] if button != "none" else []
        for kind, (x, y) in events:
            told = {"type": kind, "x": x, "y": y, "button": button, "clickCount": int(kind != "mouseMoved")}
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", told)
        self.settle()

    def tip(self) -> str:
        """What stands beside the pointer."""
        return str(self.run("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.textContent"))

    def complaints(self) -> list[str]:
        """What the console says, and what was asked of a network."""
        console, asked = self._drain()
        return [*console, *(url for url in asked if not url.startswith(("file:", "data:")))]

    def _drain(self) -> tuple[list[str], list[str]]:
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [entry["message"] for entry in self.browser.get_log("browser")], sent


def written(path: Path, *folders: Path) -> Path:
    path.write_bytes(document([measured(record) for record in read_records(folders)]))
    return path


def test_one_run(make_run: MakeRun, browser: Any, tmp_path: Path) -> None:
    def loss(number: int) -> float | None:
        return None if number == 70 else 1 + 10 / number

    steps = step_lines(300, loss=loss, grad_norm=lambda number: 1 + number % 7)
    events = [{"event": "checkpoint", "step": step} for step in (100, 200, 300)]
    events += [{"event": "restarted", "reason": "<b>rank 1</b>"}, {"event": "started", "step": 150, "num_steps": 300}]
    evaluations = [{"step": step, "held_out_loss": 3 - step / 200} for step in (0, 100, 200, 300)]
    run = make_run("<i>run</i>", steps=steps, events=events, evaluations=evaluations)
    page = Opened(browser, written(tmp_path / "one.html", run))
    charts = page.run("return [...document.querySelectorAll('.chart')].map((chart) => '#' + chart.id)")
    assert charts == [f"#chart-{key}" for key in ("loss", "lr", "norm", "rate", "mfu", "step", "waits", "memory")]
    before = {chart: page.ink(chart) for chart in [*charts, "#timeline"]}
    assert all(count > 2000 for count, _ in before.values()), before
    assert page.run("return document.querySelectorAll('svg.bar rect').length") > 10

    page.point("#chart-loss", 0.5)
    assert "step 150" in page.tip()
    assert "training1.067" in page.tip()
    assert "interrupted, started again: <b>rank 1</b>" in page.tip()
    page.point("#timeline", 0.5)
    page.point("#chart-norm", 0.3)
    assert "before clipping" in page.tip()

    page.click("#theme")
    assert page.run("return document.documentElement.dataset.theme") == "light"
    for control, changed in (("#log", "#chart-loss"), ("#marks", "#chart-lr"), ("#theme", "#chart-rate")):
        was = page.ink(changed)
        page.click(control)
        assert page.ink(changed) != was, control
    assert page.run("return document.documentElement.dataset.theme") == "dark"
    for control, value, changed in (("#smoothing", "0", "#chart-loss"), ("#axis", "seen", "#chart-lr")):
        was = page.ink(changed)
        page.choose(control, value)
        assert page.ink(changed)[0] > 2000, control
        assert page.ink(changed) != was, control
    assert page.complaints() == []


def test_dragging_zooms_all_charts_and_a_button_ends_it(make_run: MakeRun, browser: Any, tmp_path: Path) -> None:
    page = Opened(browser, written(tmp_path / "zoom.html", make_run("run", steps=step_lines(200))))
    whole = page.ink("#chart-lr")
    page.point("#chart-loss", 0.25, 0.4, 0.5, button="left")
    low, high = page.run("return state.zoom")
    assert low == pytest.approx(50, abs=3)
    assert high == pytest.approx(100, abs=3)
    assert page.ink("#chart-lr") != whole
    page.click("#whole")
    assert page.run("return state.zoom") is None
    assert page.complaints() == []


def test_runs_are_switched_off_and_on(make_run: MakeRun, browser: Any, tmp_path: Path) -> None:
    short = make_run("a", steps=step_lines(9), evaluations=[{"step": 9, "exact_match": 0.5}])
    long, one = make_run("b", steps=step_lines(5000, loss=3.0)), make_run("c", steps=step_lines(1))
    runs = [short, long, make_run("planned"), one]
    page = Opened(browser, written(tmp_path / "several.html", *runs))
    chips = page.run("return [...document.querySelectorAll('.chip')].map((chip) => chip.textContent)")
    assert chips == ["a", "b", "planned", "c"]
    both = page.ink("#chart-loss")
    page.point("#chart-loss", 0.5)
    assert "b, training" in page.tip()
    page.click(".chip:nth-child(2)")
    assert page.run("return document.querySelector('.chip:nth-child(2)').ariaPressed") == "false"
    assert page.ink("#chart-loss") != both
    page.click(".chip:nth-child(1)")
    assert page.run("return document.querySelector('#chart-answers').textContent").endswith("is shown.")
    for place in (3, 4):
        page.click(f".chip:nth-child({place})")
    assert page.run("return document.querySelectorAll('.chart canvas').length") == 0
    for place in (1, 2, 3, 4):
        page.click(f".chip:nth-child({place})")
    page.point("#chart-loss", 0.99)  # away, as the pointer was when it was drawn first
    assert page.ink("#chart-loss") == both
    assert page.complaints() == []


@pytest.mark.parametrize(
    "files", [{}, {"steps": step_lines(1)}, {"steps": step_lines(3, loss=None)}, {"events": [{"event": "restarted"}]}]
)
def test_runs_in_any_state_open(make_run: MakeRun, browser: Any, tmp_path: Path, files: dict[str, Any]) -> None:
    page = Opened(browser, written(tmp_path / "page.html", make_run("run", **files)))
    drawn = page.run("return document.querySelectorAll('.chart canvas').length")
    assert drawn == {0: 0, 1: 8, 3: 7}[len(files.get("steps", []))]
    assert page.complaints() == []


def test_the_complaints_are_heard(browser: Any, tmp_path: Path, make_run: MakeRun) -> None:
    """Else the tests above would say nothing; the page's policy keeps what was smuggled in from running."""
    path = written(tmp_path / "page.html", make_run("run", steps=step_lines(3)))
    smuggled = b"<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x.png'></body>"
    path.write_bytes(path.read_bytes().replace(b"</body>", smuggled))
    page = Opened(browser, path)
    assert page.browser.title == "run - toolkit report"
    told = page.complaints()
    assert any("script-src" in one for one in told)
    assert any("img-src" in one for one in told)
