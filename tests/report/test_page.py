"""The HTML page, without a browser: what it holds, and what it must never hold."""

import dataclasses
import math
from html.parser import HTMLParser

import pytest

from report_fixture import (
    ATTACK,
    REPORTS,
    classify_report,
    generate_report,
    make_result,
    shuffled_report,
    tag_report,
)
from tunewright.report.page import closest_rival, make_page, mark_missing


class Page(HTMLParser):
    """What a page asks for and shows: tags, addresses, headings, ids, text."""

    VOID = {"meta", "link", "col", "img", "br", "wbr", "hr", "input"}  # noqa: RUF012

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.ids, self.handlers = [], [], [], []
        self.open, self.text, self.styles = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name))
            if name == "style":
                self.styles.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open[-1:] and "style" not in self.open[-1:]:
            self.text.append(data)


def page_of(report):
    html = make_page(report)
    page = Page(html)
    assert not page.open
    return html, page


def section(html, name):
    start = html.index(f'<section id="{name}"')
    return html[start : html.index("</section>", start)]


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed_and_asks_for_nothing(name):
    html, page = page_of(REPORTS[name]())
    assert [a for a in page.addresses if not a.startswith("#")] == ["data:,"]
    assert "@import" not in html and "url(" not in html
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert page.tags.count("h1") == 1
    assert len(page.ids) == len(set(page.ids))
    assert not page.handlers and not page.styles
    assert "default-src 'none'" in html
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)


@pytest.mark.parametrize("name", REPORTS)
def test_page_tells_verdict_and_reasons(name):
    report = REPORTS[name]()
    text = " ".join("".join(page_of(report)[1].text).split())
    assert report.verdict.capitalize() in text
    for sentence in (*report.because, *report.next_steps):
        assert sentence in text


def test_page_of_77_classes_has_every_section_and_stays_small():
    html, page = page_of(classify_report())
    for name in ("verdict", "results", "comparisons", "training", "calibration", "confusion",
                 "classes", "examples", "worst-rows", "label-errors", "data", "warnings", "cost",
                 "recipe", "environment"):  # fmt: skip
        assert name in page.ids
    assert "forgetting" not in page.ids
    assert len(html.encode()) < 1_500_000
    confusion = classify_report().details["confusion"]["matrix"]
    wrong = sum(1 for i, row in enumerate(confusion) for j, n in enumerate(row) if i != j and n)
    assert html.count('class="miss"') == wrong


def test_empty_sections_are_left_out():
    _, page = page_of(shuffled_report())
    assert set(page.ids) >= {"results", "comparisons", "cost"}
    absent = "training calibration confusion classes examples worst-rows data recipe forgetting"
    assert not set(page.ids) & set(absent.split())


def test_attacks_in_rows_labels_and_file_names_stay_text():
    html, page = page_of(classify_report(ATTACK))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not page.handlers
    assert "&lt;img" in html
    report = dataclasses.replace(
        shuffled_report(), base_model=ATTACK, because=(ATTACK,), next_steps=(ATTACK,),
        results=(make_result(ATTACK, 9, accuracy=0.5), make_result("tuned", 9, accuracy=0.4)),
        forgetting={ATTACK: {ATTACK: ATTACK}},
        details={"environment": {ATTACK: ATTACK}, "recipe": ATTACK, "warnings": [ATTACK],
                 "card": {ATTACK: ATTACK, "findings": [{"kind": ATTACK, "message": ATTACK}]}},
    )  # fmt: skip
    _, page = page_of(report)
    assert page.tags.count("script") == 1 and "img" not in page.tags and not page.handlers


@pytest.mark.parametrize("junk", [None, 1, "text", [], {}, [1], {"a": 1}, [{}], [None, {"x": None}],
                                  {"labels": ["a"], "matrix": 3}, {"bins": 3}])  # fmt: skip
def test_details_of_unexpected_shapes_never_break_the_page(junk):
    keys = ("recipe", "derived", "steps", "evaluations", "labels", "confusion", "calibration",
            "worst_classes", "worst_rows", "examples", "probable_label_errors", "card", "warnings",
            "environment")  # fmt: skip
    for key in keys:
        page_of(dataclasses.replace(shuffled_report(), details={key: junk}))
    page_of(dataclasses.replace(shuffled_report(), details=dict.fromkeys(keys, junk)))


def test_steps_with_holes_and_one_evaluation_are_drawn():
    details = {
        "steps": [
            {"step": 1, "loss": math.nan},
            {"step": 2, "loss": 1.5},
            {"step": 3, "loss": None},
        ],
        "evaluations": [{"step": 2, "metrics": {"accuracy": 0.5}, "loss": math.inf, "best": True}],
    }
    html, page = page_of(dataclasses.replace(shuffled_report(), details=details))
    assert "training" in page.ids
    assert "nan" not in section(html, "training") and "inf" not in section(html, "training")
    assert "Best: 50.0 % at step 2" in html


def test_best_step_is_the_last_one_marked():
    evaluations = [
        {"step": step, "metrics": {"accuracy": value}, "loss": 1.0, "best": best}
        for step, value, best in ((10, 0.5, True), (20, 0.7, True), (30, 0.6, False))
    ]
    html, _ = page_of(dataclasses.replace(shuffled_report(), details={"evaluations": evaluations}))
    assert "Best: 70.0 % at step 20" in html


def test_huge_cells_are_shortened():
    row = {"input": "x" * 1_000_000, "reference": "y" * 1_000_000, "prediction": "z", "place": "p"}
    details = {"worst_rows": [row] * 60, "examples": [{**row, "base": "b" * 10**6, "tuned": "t"}]}
    html = make_page(dataclasses.replace(generate_report(), details=details))
    assert len(html) < 300_000


def test_more_classes_than_can_be_drawn_keep_those_with_mistakes():
    size = 150
    matrix = [[9 if i == j else 0 for j in range(size)] for i in range(size)]
    matrix[140][149] = 5
    labels = [f"class {i}" for i in range(size)]
    details = {"confusion": {"labels": labels, "matrix": matrix}}
    html = section(make_page(dataclasses.replace(shuffled_report(), details=details)), "confusion")
    assert "class 140: 5 of 14 taken for class 149" in html
    assert "labels with fewer mistakes are not drawn" in html


def test_spans_are_shown_in_words():
    html, _ = page_of(tag_report())
    assert "people: “two”" in html and "(none)" in html


def test_missing_words_are_marked_and_escaped():
    marked = str(mark_missing("a <b> pub near here", "a <b> pub by here"))
    assert marked == "a &lt;b&gt; pub <mark>near</mark> here"
    assert "<mark>" not in str(mark_missing("same words", "same words"))
    assert str(mark_missing("x\n\ny", "z")) == "<mark>x</mark>\n\n<mark>y</mark>"


def test_closest_rival_is_the_hardest_one():
    assert closest_rival(classify_report()).b == "tfidf_linear"
    assert closest_rival(generate_report()).b == "nearest_neighbour"
    assert closest_rival(dataclasses.replace(tag_report(), comparisons=())) is None
