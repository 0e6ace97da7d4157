"""Takes the pictures of a report's page that the documentation shows: `make screenshots`.

Needs chromium with its chromedriver, and runs that have trained:

    python tests/screenshot.py docs/images/report-several.png runs/a runs/b --height 1500 --dark
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from toolkit.report.page.document import document
from toolkit.report.record import read_records
from toolkit.report.results import measured

WIDTH = 1280


def main() -> None:
    """Write the page of the runs, open it, point at the middle of the first chart, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    try:
        size = {"width": WIDTH, "height": args.height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            page.write_bytes(document([measured(record) for record in read_records(args.runs)]))
            driver.get(page.as_uri())
            for _ in range(2 if args.dark else 0):
                driver.execute_script("document.getElementById('theme').click()")
            x, y = driver.execute_script(
                "const box = document.querySelector('#chart-loss .u-over').getBoundingClientRect();"
                "return [box.left + 0.4 * box.width, box.top + 0.35 * box.height]"
            )
            driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
            driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            args.picture.parent.mkdir(parents=True, exist_ok=True)
            # Few colours are in it: a palette of them makes it half as large.
            seen = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            seen.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(args.picture, optimize=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
