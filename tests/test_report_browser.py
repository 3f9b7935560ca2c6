"""The HTML page in a real Chromium: no console message, no overflow, working script."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from base64 import b64encode
from html import unescape

import pytest

from report_fixture import ATTACK, REPORTS, classify_report
from tunewright.report_page import make_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
MEASURE = """
document.fonts.ready.then(() => {
  const root = document.scrollingElement;
  for (const d of document.querySelectorAll("details")) d.open = true;
  const told = {view: innerWidth, page: root.scrollWidth};
  told.wide = [...document.querySelectorAll("main *")].filter((e) => {
    const right = e.getBoundingClientRect().right;
    return right > innerWidth + 1 && !e.closest(".scroll, pre, svg");
  }).map((e) => e.tagName + "." + e.className).slice(0, 5);
  const button = document.querySelector("#classes th:nth-child(3) button")
    ?? document.querySelector("#results th:nth-child(3) button");
  const cells = () => [...button.closest("table").tBodies[0].rows].map((r) => r.cells[2].dataset.v);
  button.click(); told.down = cells();
  button.click(); told.up = cells();
  told.sort = button.parentNode.getAttribute("aria-sort");
  const plot = document.querySelector(".chart[data-lines] svg.plot");
  if (plot) {
    const box = plot.getBoundingClientRect();
    plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right, clientY: box.top}));
    told.readout = document.querySelector(".readout:not([hidden])").textContent;
  }
  told.titles = [...document.querySelectorAll("svg[role=img]")].every((s) => s.ariaLabel);
  parent.postMessage(told, "*");
});
"""
# A window is never narrower than 500 pixels, a frame is: each page stands in a frame as wide as a
# phone and tells its measures to the page around it.
FRAMES = """<!doctype html><html><head><title>{}</title></head><body>%s<script>
addEventListener("message", (event) => {
  const told = JSON.parse(document.title);
  const frames = [...document.querySelectorAll("iframe")];
  told[frames.find((f) => f.contentWindow === event.source).name] = event.data;
  document.title = JSON.stringify(told);
});
</script></body></html>"""


def frames_of(tmp_path, pages, width):
    """A page that holds the given pages, by name, in frames of this width."""
    frames = []
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
        frames.append(f'<iframe name="{name}" src="{name}.html" width="{width}" height="800" '
                      'style="border:0"></iframe>')  # fmt: skip
    return FRAMES % "".join(frames)


def browse(tmp_path, html):
    """(dumped DOM, console lines) of a page opened from a file."""
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=1500",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900",
        "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "NO_AT_BRIDGE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert done.stdout.rstrip().endswith("</html>"), done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(html, script):
    """The page with one more script, which its policy is taught to allow."""
    allowed = "sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src '", f"script-src '{allowed}' '", 1)
    return html.replace("</body>", f"<script>{script}</script></body>")


def measured(dom):
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL).group(1)))


def every_page():
    pages = {name: make_page(make()) for name, make in REPORTS.items()}
    return {**pages, "attack": make_page(classify_report(ATTACK))}


def test_pages_are_silent(tmp_path):
    pages = {name: html for name, html in every_page().items() if name in ("attack", "generate")}
    _, console = browse(tmp_path, frames_of(tmp_path, pages, 1000))
    assert console == []


def test_a_request_or_a_foreign_script_would_be_blocked_and_heard(tmp_path):
    bad = make_page(classify_report()).replace(
        "<footer>", '<footer><img src="https://example.invalid/x.png"><script>alert(1)</script>'
    )
    dom, console = browse(tmp_path, bad)
    assert any("img-src" in line for line in console)
    assert any("script-src" in line for line in console)
    assert 'aria-current="true"' in dom  # our own script still works


def test_pages_fit_a_phone_and_their_script_works(tmp_path):
    pages = {name: with_script(html, MEASURE) for name, html in every_page().items()}
    dom, console = browse(tmp_path, frames_of(tmp_path, pages, 360))
    everything = measured(dom)
    assert console == [] and everything.keys() == pages.keys()
    for name, told in everything.items():
        assert told["view"] == 360 and told["page"] <= 360 and told["wide"] == [], name
        assert told["sort"] == "ascending" and told["titles"]
        values = [float(value) for value in told["up"]]
        assert values == sorted(values) == [float(value) for value in told["down"]][::-1]
    readout = everything["classify"]["readout"]
    assert "training loss" in readout and "step 1,800" in readout
