"""A headless Chromium for pages: what a person would see, and what axe-core has to say."""

import base64
import importlib.resources
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH: pages are not looked at"
)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Text that is wider than its box, and boxes that stick out of the page.
_OVERFLOWS = """
const found = [], page = document.documentElement;
if (page.scrollWidth > page.clientWidth) found.push(`page ${page.scrollWidth} > ${page.clientWidth}`);
for (const e of document.querySelectorAll("main *")) {
  if (e.closest("svg")) continue;
  const wide = e.clientWidth > 0 && e.scrollWidth > e.clientWidth && getComputedStyle(e).display !== "inline";
  if (wide) found.push(`${e.tagName} ${e.scrollWidth} > ${e.clientWidth}`);
}
for (const svg of document.querySelectorAll(".picture svg")) {
  if (!svg.checkVisibility()) continue;  // laid out for another width
  const rects = [...svg.querySelectorAll("rect")].map(r => r.getBBox()), view = svg.viewBox.baseVal;
  for (const r of rects) {
    if (r.x < 0 || r.y < 0 || r.x + r.width > view.width || r.y + r.height > view.height) found.push("box outside");
  }
  for (const text of svg.querySelectorAll("text")) {
    const t = text.getBBox();
    const inside = r => t.x >= r.x && t.y >= r.y && t.x + t.width <= r.x + r.width && t.y + t.height <= r.y + r.height;
    if (!rects.some(inside)) found.push(`text ${text.textContent}`);
  }
}
for (const image of document.images) if (!image.complete || !image.naturalWidth) found.push("image not loaded");
return found;
"""


class Browser:
    """An open page."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def open(self, path: Path, width: int = 1000) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self._driver.get(path.as_uri())

    def overflows(self) -> list[str]:
        return list(self._driver.execute_script(_OVERFLOWS))

    def scroll_width(self) -> tuple[int, int]:
        """How wide the page is, and how wide the window."""
        wide, window = self._driver.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        return int(wide), int(window)

    def letters(self) -> float:
        """Height of the smallest letters in the picture that is seen, in pixels of the screen."""
        return float(
            self._driver.execute_script(
                "const seen = [...document.querySelectorAll('.picture svg')].filter(s => s.checkVisibility());"
                "if (seen.length !== 1) throw new Error(`${seen.length} pictures are seen`);"
                "const scale = seen[0].getBoundingClientRect().width / seen[0].viewBox.baseVal.width;"
                "return scale * parseFloat(seen[0].getAttribute('font-size'));"
            )
        )

    def printed(self) -> bytes:
        """The page as PDF, on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True, "preferCSSPageSize": True}
        return base64.b64decode(self._driver.execute_cdp_cmd("Page.printToPDF", paper)["data"])

    def violations(self) -> list[str]:
        """What axe-core finds, and at which elements."""
        source = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
        self._driver.execute_script(source)
        outcome = self._driver.execute_async_script(
            "const done = arguments[0]; axe.run().then(done, e => done({error: String(e)}));"
        )
        assert "error" not in outcome, outcome
        assert len(outcome["passes"]) > 10  # that it looked at all
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
            for one in outcome["violations"]
        ]

    def screenshot(self, path: Path, height: int | None = None) -> None:
        size = self._driver.execute_script(
            "return [document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or size[1], "scale": 1}
        shot = self._driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Start a browser.

    Args:
        profile: Its folder.

    Yields:
        The browser.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
