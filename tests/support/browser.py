"""A headless Chromium that tests drive: what it logged and asked for, widths, themes, contrast."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest

PROGRAMS = ("/usr/bin/chromium", "/usr/bin/chromedriver")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
]

# Every visible text whose contrast with what lies behind it is below WCAG's AA.
_LOW_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const known = new Map();
function rgba(text) {
  if (!known.has(text)) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(text, [r, g, b, a / 255]);
  }
  return known.get(text);
}
const over = (top, under) => under.map((c, i) => i === 3 ? 1 : top[i] * top[3] + c * (1 - top[3]));
function behind(element) {
  const layers = [];
  for (let one = element; one; one = one.parentElement) {
    layers.push(rgba(getComputedStyle(one).backgroundColor));
    if (layers.at(-1)[3] === 1) break;
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return layers.reduceRight((under, layer) => over(layer, under),
    dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
}
function luminance(colour) {
  const [r, g, b] = colour.map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
const low = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
  if (!text || /^(SCRIPT|STYLE|NOSCRIPT|TITLE|OPTION)$/i.test(element.tagName)) continue;
  if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  if (element.closest(":disabled")) continue;
  const style = getComputedStyle(element);
  const under = behind(element);
  let ink = rgba(element.closest("svg") ? style.fill : style.color);
  let opacity = 1;
  for (let one = element; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
  ink = over([...ink.slice(0, 3), ink[3] * opacity], under);
  const [a, b] = [luminance(ink), luminance(under)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  const ratio = (a + .05) / (b + .05);
  if (ratio < (large ? 3 : 4.5)) low.push(`${ratio.toFixed(2)}: ${element.tagName} ${text.slice(0, 40)}`);
}
return low;
"""


class Browser:
    """One window of Chromium; pages are opened in it one after the other."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(
        self,
        page: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        theme: Literal["light", "dark"] = "light",
    ) -> None:
        """Loads a file, or a URL such as one with a fragment, at a width (CSS pixels) and in a theme."""
        self.size(width, height)
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        self.driver.get("about:blank")
        self.driver.get(page.absolute().as_uri() if isinstance(page, Path) else page)

    def size(self, width: int, height: int = 900) -> None:
        """The window's size; narrower, too, than Chromium's windows can be."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def run(self, script: str, *args: Any) -> Any:
        """What a script's ``return`` gives."""
        return self.driver.execute_script(script, *args)

    def wait(self, script: str, seconds: float = 10) -> Any:
        """The first true value of a script's ``return``.

        Raises:
            selenium.common.TimeoutException: There is none in time.
        """
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, seconds, poll_frequency=0.02)
        return waiting.until(lambda driver: driver.execute_script(script), script)

    def press(self, *keys: str) -> None:
        """Keys one after the other, to whatever has the focus: ``"Tab"``, ``"Enter"``, ``"j"``."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        named = {"Tab": Keys.TAB, "Enter": Keys.ENTER, "Escape": Keys.ESCAPE, "Down": Keys.DOWN}
        named |= {"Up": Keys.UP, "Left": Keys.LEFT, "Right": Keys.RIGHT, "Space": Keys.SPACE}
        named |= {"End": Keys.END, "Home": Keys.HOME, "PageDown": Keys.PAGE_DOWN}
        for key in keys:
            ActionChains(self.driver, 0).send_keys(named.get(key, key)).perform()

    def console(self) -> list[str]:
        """Errors and warnings that were logged since this was last asked."""
        return [
            line["message"]
            for line in self.driver.get_log("browser")
            if line["level"] in ("SEVERE", "WARNING")
        ]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since this was last asked, but ``data:`` ones."""
        events = [json.loads(line["message"]) for line in self.driver.get_log("performance")]
        addresses = [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]
        own = ("data:", "about:", "chrome:")  # Chromium's first tab is a page of its own
        return [address for address in addresses if not address.startswith(own)]

    def external_requests(self) -> list[str]:
        """Those of `requests` that leave this machine's files."""
        return [address for address in self.requests() if not address.startswith("file:")]

    def scrolls_sideways(self) -> bool:
        """Whether the page is wider than its window."""
        return bool(
            self.run(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )

    def low_contrast(self) -> list[str]:
        """Visible texts below 4.5:1 (large ones 3:1) on what lies behind them, with their ratio."""
        return list(self.run(_LOW_CONTRAST))

    def screenshot(self, path: Path) -> None:
        """A PNG of what the window shows."""
        self.driver.save_screenshot(str(path))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile; the test is skipped where there is none."""
    selenium = pytest.importorskip("selenium", reason="selenium is not installed")
    for program in PROGRAMS:
        if not shutil.which(program):
            pytest.skip(f"{program} is not there")
    from selenium import webdriver

    program, chromedriver = PROGRAMS
    with TemporaryDirectory(prefix="m2kr-chromium-", ignore_cleanup_errors=True) as profile:
        options = selenium.webdriver.ChromeOptions()
        options.binary_location = program
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
