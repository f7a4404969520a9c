"""Headless Chromium, driven by what a person sees: links are found by their text and clicked."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PATIENCE_S = 90
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900",
)  # fmt: skip


class Browser:
    """A window.

    Args:
        driver: Of it.
        pictures: Folder for screenshots; none are kept without one.
    """

    def __init__(self, driver: webdriver.Chrome, pictures: Path | None) -> None:
        self.driver, self.pictures = driver, pictures

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to be there; a page that is being drawn anew is looked at again."""

        def tried(_: Any) -> Any:
            try:
                return condition()
            except WebDriverException:
                return None

        waiting = WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.2)
        return waiting.until(tried, f"{what}, at {self.driver.current_url}:\n{self.text()[:1500]}")

    def text(self) -> str:
        """What can be read in the page."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def sees(self, *texts: str) -> None:
        self.until(lambda: all(text in self.text() for text in texts), f"no {texts}")

    def click(self, text: str) -> None:
        """Click the link that says this, else the innermost thing that does.

        MLflow opens links of a description in a tab of their own: go there.
        """
        before = self.driver.window_handles
        says = f"[normalize-space()='{text}']"

        def clicked() -> bool:
            links = self.driver.find_elements(By.XPATH, f"//a{says}")
            found = links or self.driver.find_elements(By.XPATH, f"//body//*{says}")
            if not found:
                return False
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[-1])
            blank = self.driver.execute_script(
                "return arguments[0].closest('a')?.target == '_blank'", found[-1]
            )
            found[-1].click()
            if blank:
                WebDriverWait(self.driver, PATIENCE_S).until(lambda d: len(d.window_handles) > len(before))
                (fresh,) = set(self.driver.window_handles) - set(before)
                self.driver.switch_to.window(fresh)
            return True

        self.until(clicked, f"nothing to click says {text!r}")

    def back_to(self, tab: str) -> None:
        """Close the tab that a click opened."""
        self.driver.close()
        self.driver.switch_to.window(tab)

    def frame(self, read: Callable[[], Any], what: str) -> Any:
        """What a frame of the page shows."""

        def looked() -> Any:
            for element in self.driver.find_elements(By.TAG_NAME, "iframe"):
                self.driver.switch_to.frame(element)
                try:
                    if found := read():
                        return found
                finally:
                    self.driver.switch_to.default_content()
            return None

        return self.until(looked, what)

    def picture(self) -> WebElement:
        """A picture that was drawn."""
        script = (
            "return [...document.images].find(i => i.complete && i.naturalWidth > 300 && i.offsetWidth > 300)"
        )
        return self.until(lambda: self.driver.execute_script(script), "no picture")

    def shoot(self, name: str) -> None:
        """Keep what is seen."""
        if self.pictures is not None:
            self.driver.save_screenshot(str(self.pictures / f"{name}.png"))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; the test is skipped where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    kept = os.environ.get("EXPUNGE_TEST_PICTURES")
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        yield Browser(driver, Path(kept) if kept else None)
    finally:
        driver.quit()
