"""The page of `check`: every row named, nothing executed, fit for a phone."""

import pytest

from browser_fixture import BROWSER, browse, frames_of, measured, with_script
from report_fixture import ATTACK
from tunewright.report.check import make_check_page

FITS = """
addEventListener("load", () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const root = document.scrollingElement;
  const wide = [...document.querySelectorAll("main *")].filter((e) =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg"));
  parent.postMessage({view: innerWidth, page: root.scrollWidth, wide: wide.map((e) => e.tagName)}, "*");
});
"""


def card(text=""):
    finding = {
        "kind": "label_error", "severity": "warn", "message": f"2 rows doubtful {text}", "count": 2,
        "rows": ["0f40129a75fce96f", "8ad44088e06058dd"], "places": ["a.csv:3", f"a.csv:9 {text}"],
        "dropped": False, "suggestions": [f"login{text}", ""], "counterparts": ["", "a.csv:1"],
    }  # fmt: skip
    return {
        "task": "classify",
        "splits": {"train": {"rows": 1234, "labels": {f"a{text}": 1200, "b": 34}}},
        "findings": [finding],
        "vocabulary": {
            "test": {"words": 9, "unknown_words_share": 0.25, "unknown_running_share": 0.1}
        },
        "learnability": {"line": f"without tuning, accuracy on 3 rows {text}"},
        "preflight": {"memory": f"fits {text}"},
    }


def test_rows_verdict_and_card_are_shown():
    page = make_check_page("a.csv", card(), ())
    for word in ("Fit, with warnings", "a.csv:3", "8ad44088e06058dd", "login", "a.csv:1", "1,234",
                 "25.0 %", "Without tuning", "fits"):  # fmt: skip
        assert word in page, word
    assert "Unfit to learn from" in make_check_page("a.csv", card(), ("column x gives it away",))
    calm = {**card(), "findings": []}
    assert "Nothing was found" in make_check_page("a.csv", calm, ())


def test_what_rows_hold_is_shown_and_never_run():
    page = make_check_page(ATTACK, card(ATTACK), (ATTACK,))
    body = page.split("</style>")[1]
    assert ATTACK not in body and body.count("<script>") == 1 and "<img" not in body


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_page_is_silent_and_fits_a_phone(tmp_path):
    pages = {
        name: with_script(make_check_page("a.csv", card(text), ()), FITS)
        for name, text in (("plain", ""), ("attack", ATTACK))
    }
    dom, console = browse(tmp_path, frames_of(tmp_path, pages, 360))
    assert console == []
    for name, told in measured(dom).items():
        assert told["view"] == 360 and told["page"] <= 360 and told["wide"] == [], name
