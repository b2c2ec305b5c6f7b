"""A page of ours in a browser, with all that it said and asked for, and what a machine can tell of who can read it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

OUT = Path(__file__).resolve().parents[2] / "out"
SCREENSHOTS = OUT / "e2e"
AXE = OUT / "axe" / "package" / "axe.min.js"
"""axe-core, which is fetched for the check and is no part of this repository."""

WIDTHS = (1280, 390)

FAINT = """root => {
  const channel = value => { const c = value / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parts = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const over = (front, back) => [0, 1, 2].map(i => front[i] * front[3] + back[i] * (1 - front[3]));
  const paper = element => {
    if (!element) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    const own = parts(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, paper(element.parentElement));
  };
  const found = [];
  const walker = document.createTreeWalker(document.querySelector(root || 'body'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || ['SCRIPT', 'STYLE', 'TITLE', 'NOSCRIPT'].includes(element.tagName)) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const back = paper(element), ink = over(parts(element.closest('svg') ? style.fill : style.color), back);
    const [light, dark] = [luminance(ink), luminance(back)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
"""Visible words whose contrast is below level AA of WCAG 2.1."""

UNNAMED = """root => [
  ...document.querySelector(root || 'body').querySelectorAll('img, canvas, svg, input, select, textarea, button, a')
].filter(element => {
  const own = element.getAttribute('alt') || element.getAttribute('aria-label') || element.textContent.trim();
  const labels = element.labels && [...element.labels].some(label => label.textContent.trim());
  const ids = (element.getAttribute('aria-labelledby') || '').split(' ').filter(Boolean);
  if (element.closest('[hidden]')) {
    return false;
  }
  return !own && !labels && !(ids.length && ids.every(id => document.getElementById(id)?.textContent.trim()));
}).map(element => element.outerHTML.slice(0, 80))"""
"""Pictures and controls that a screen reader cannot name."""

SERIOUS = """async root => {
  const found = await axe.run(root || document, { resultTypes: ['violations'] });
  return found.violations.filter(one => ['serious', 'critical'].includes(one.impact))
    .map(one => `${one.id}: ${one.nodes.map(node => node.html.slice(0, 120)).join(' ')}`);
}"""
"""What axe-core calls a serious or critical fault."""

HEADINGS = """() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(found => Number(found.tagName[1]))"""


class Opened:
    """The page with all that it said and asked for.

    Args:
        ready: selector of what is there once the page has set itself up.
        dark: as for a person who prefers dark pages.
    """

    def __init__(self, browser: Any, file: Path, width: int, *, ready: str = "body", dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, accept_downloads=True, color_scheme=scheme
        )
        self.name = f"{file.stem}_{width}{'_dark' if dark else ''}"
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(ready, timeout=60_000)

    def outside(self) -> list[str]:
        """What was asked for beside the page itself."""
        return [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))]

    def close(self) -> None:
        """Leave a screenshot for people."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self.name}.png", full_page=True)
        self.context.close()


def require_readable(page: Any) -> None:
    """No faint words, no unnamed picture or control, headings without gaps, nothing wider than the window."""
    assert page.evaluate(FAINT) == []
    assert page.evaluate(UNNAMED) == []
    levels = page.evaluate(HEADINGS)
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def require_readable_part(page: Any, root: str) -> None:
    """No faint words and no unnamed picture or control within a part of somebody else's page."""
    assert page.evaluate(FAINT, root) == []
    unnamed = page.evaluate(UNNAMED, root)
    assert unnamed == [], unnamed


def require_accessible(page: Any, root: str = "") -> None:
    """No serious fault by the rules of axe-core, which this skips without."""
    if not AXE.is_file():
        pytest.skip("this test needs axe-core (make axe)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate(SERIOUS, root) == []


def tab_to(page: Any, selector: str, *, at_most: int = 60) -> None:
    """Press Tab until an element has the focus, as somebody without a mouse does.

    Raises:
        AssertionError: if it is not reached.
    """
    for _ in range(at_most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
            return
    raise AssertionError(f"'{selector}' is not reached by Tab")
