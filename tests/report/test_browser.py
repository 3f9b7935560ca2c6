"""The HTML page in a real Chromium: no console message, no overflow, working script."""

import pytest

from browser_fixture import BROWSER, browse, frames_of, measured, with_script
from report_fixture import ATTACK, REPORTS, classify_report
from tunewright.report.page import make_page

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
