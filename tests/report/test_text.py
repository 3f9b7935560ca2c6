"""Reports on the terminal and in Markdown."""

import dataclasses
import io
import math

import pytest
from rich.console import Console

from report_fixture import (
    REPORTS,
    classify_report,
    make_result,
    shuffled_report,
)
from tunewright.records import Comparison, Cost, Report
from tunewright.report import charts
from tunewright.report.files import print_report
from tunewright.report.page import make_page
from tunewright.report.text import draw_interval, make_markdown
from tunewright.store import to_plain


def printed(report, *, width=80, encoding="utf-8", **options):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    print_report(report, Console(file=file, width=width, **options))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_terminal_lines_fit(name, width):
    text = printed(REPORTS[name](), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("name", REPORTS)
def test_terminal_without_utf8_uses_plain_signs(name):
    text = printed(REPORTS[name](), encoding="ascii")
    assert text.isascii() and REPORTS[name]().verdict.upper() in text


def test_terminal_says_the_verdict_first_and_in_words():
    lines = [line for line in printed(classify_report()).splitlines() if line.strip()]
    assert "✓ SHIP" in lines[0]
    text = "\n".join(lines)
    assert "tuned better than TF-IDF + linear model" in text
    assert "nearest neighbour worse than TF-IDF + linear model" in text
    assert "93.6 % 92.8 to 94.4" in text


def test_terminal_colours_only_where_wanted(monkeypatch):
    assert "\x1b[1;7;32m" in printed(
        classify_report(), force_terminal=True, color_system="standard"
    )
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32" not in printed(classify_report(), force_terminal=True)


def test_intervals_are_drawn_in_text():
    scale = charts.Scale(0.0, 1.0)
    score = make_result("tuned", 100, accuracy=0.5).metrics["accuracy"]
    low, high = score.ci95
    drawn = draw_interval(score, scale, fancy=False, width=21)
    assert drawn[10] == "o" and drawn.index("-") == round(20 * low)
    assert drawn.rindex("-") == round(20 * high)
    far = dataclasses.replace(score, value=2.0)
    assert draw_interval(far, scale, fancy=False).endswith(">")


def test_markdown_tells_the_story_and_escapes():
    text = make_markdown(classify_report())
    assert text.startswith("# Ship\n")
    assert "| tuned | 3,080 | 93.6 % (92.8 to 94.4) |" in text
    assert "| tuned | better | TF-IDF + linear model | accuracy | +2.5 points |" in text
    assert "1. Look at the 14 probable label errors" in text
    hostile = dataclasses.replace(shuffled_report(), because=("a | b\n# c <script>x</script> `d`",))
    line = next(line for line in make_markdown(hostile).splitlines() if line.startswith("- a"))
    assert line == r"- a \| b \# c &lt;script&gt;x&lt;/script&gt; \`d\`"


def test_report_without_figures_has_a_page_and_texts():
    report = Report("continue", "m", "bits_per_byte", (), (), Cost(), None, ())
    assert "Measured" in make_page(report)
    assert make_markdown(report).startswith("# Measured")
    assert "MEASURED" in printed(report, width=60)


def test_control_characters_do_not_reach_the_page_or_the_terminal():
    bad = "\x1b[31mred\x00 \u202etxt.exe"
    report = dataclasses.replace(
        shuffled_report(), because=(bad,), details={"warnings": [bad], "recipe": bad}
    )
    for text in (make_page(report), make_markdown(report), printed(report)):
        assert not {"\x1b", "\x00", "\u202e"} & set(text)
        assert "red" in text


def test_comparison_that_knows_no_interval_is_shown():
    item = Comparison("tuned", "base", "accuracy", 0.1, (math.nan, math.nan), math.nan, "none", 5,
                      math.nan, "cannot tell")  # fmt: skip
    report = dataclasses.replace(shuffled_report(), comparisons=(item,))
    assert "+10.0 points" in make_page(report)
    assert "+10.0 points" in printed(report) and "+10.0 points" in make_markdown(report)
    assert to_plain(item)["p_value"] is None
