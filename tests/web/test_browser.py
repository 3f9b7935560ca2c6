"""Pages in a real Chromium: no console message, no overflow, working script, labels, keyboard."""

import json
import time

import pytest
from tests.web.conftest import write_story

PAGES = {
    "overview": "/", "runs": "/runs", "run": "/runs/topics-1", "review": "/runs/topics-1/review",
    "compare": "/compare?a=topics-1&b=topics-2", "playground": "/playground",
    "releases": "/releases", "story": "/story/support",
    "tune": "/tune", "traffic": "/traffic", "login": "/login",
    "monitoring": "/monitoring",
}  # fmt: skip
WIDE = """[...document.querySelectorAll('main *, header *')].filter((e) =>
  e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre, svg, .away')
).map((e) => e.tagName + '.' + e.className)"""
UNNAMED = """[...document.querySelectorAll('button, a, select, textarea, input:not([type=hidden]):not([hidden])')]
  .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).map((e) => e.outerHTML)"""
CONTRAST = """[...document.querySelectorAll('main *')].filter((e) =>
  [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
    const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) =>
      v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let ground = e;
    while (ground && (rgb(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const style = getComputedStyle(e);
    if (e.closest('svg, .away, :disabled, [hidden]') || !ground || !e.offsetParent) return null;
    const [a, b] = [light(rgb(style.color)), light(rgb(getComputedStyle(ground).backgroundColor))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return ratio < 4.5 ? `${e.tagName} ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}` : null;
  }).filter(Boolean)"""


@pytest.fixture
def page(site, browser):
    said = []
    opened = browser.new_page(base_url=site.url)
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    yield opened
    opened.close()
    # Chromium reports the status of a form that was refused.
    assert [text for text in said if "409 (Conflict)" not in text] == []


@pytest.fixture
def rows(site):
    """Rows to review, and an alarm."""
    alert = {"time_s": 1_700_000_000.0, "sentence": "Since request 40 much is new: " + "vpn " * 40,
             "signals": [{"rule": "novelty"}], "action": "label the rows", "cost_usd": 12.5}  # fmt: skip
    watch = site.runs / "topics-1" / "watch"
    watch.mkdir()
    (watch / "alerts.jsonl").write_text(json.dumps(alert) + "\n")
    path = site.runs / "topics-1" / "card.json"
    card = json.loads(path.read_text())
    card["findings"] = [
        {"kind": "label_error", "severity": "warn", "message": "three rows", "count": 3,
         "rows": ["r1", "r2", "r3"], "places": [f"classify.jsonl:{n}" for n in (3, 4, 5)],
         "dropped": False, "suggestions": [card["labels"][0], "", ""]}
    ]  # fmt: skip
    path.write_text(json.dumps(card))
    write_story(site)
    return card


def wait_for(page, condition, seconds=30):
    """Playwright's own wait would need eval, which the pages' policy refuses."""
    ends_at = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < ends_at, condition
        page.wait_for_timeout(50)


def test_pages_fit_every_width_and_are_readable(page, rows):
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            for name, path in PAGES.items():
                page.goto(path)
                assert page.evaluate(WIDE) == [], (name, width)
                assert page.evaluate(UNNAMED) == [], name
                assert page.evaluate(CONTRAST) == [], (name, scheme)
                assert page.locator("h1").count() == 1, name


def test_the_playground_shows_the_model_and_its_base(page):
    page.goto("/playground?model=replies")
    assert page.locator("#play-right").input_value().endswith("llama")  # the base, by itself
    page.fill("#play-text", "question 3 about my card")
    page.fill("#play-most", "16")
    page.keyboard.press("Tab")
    page.focus("#play-text")
    page.keyboard.press("Control+Enter")
    wait_for(page, "document.getElementById('fine-right').textContent.includes('tokens')")
    wait_for(page, "document.getElementById('fine-left').textContent.includes('tokens')")
    left, right = (page.locator(f"#out-{side}").text_content() for side in ("left", "right"))
    assert left and right and left != right
    page.select_option("#play-left", "topics-1")
    page.click("#play button[type=submit]")
    wait_for(page, "document.getElementById('out-left').textContent.includes('%')")


def test_a_review_by_keyboard(page, site, rows):
    page.goto("/runs/topics-1/review")
    page.locator("#review button").first.focus()
    page.keyboard.press("d")
    wait_for(page, "document.querySelectorAll('#review > li').length === 2")
    page.keyboard.press("k")  # the focus went on to the next row
    wait_for(page, "document.querySelectorAll('#review > li').length === 1")
    page.locator("#review select").select_option(rows["labels"][1])
    wait_for(page, "document.querySelectorAll('#review > li').length === 0")
    lines = (site.runs / "topics-1" / "review.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["drop", "keep", "relabel"]


def test_releases_by_click(page):
    page.goto("/releases")
    page.select_option("#new-run", "topics-1")
    page.fill("#new-name", "topics")
    page.click("text=Enter and move")
    page.wait_for_selector("text=passed the gate")
    page.click("text=Roll back")
    page.wait_for_selector(".fault")
    assert "nothing was in production before" in page.locator(".fault").text_content()


def test_a_run_is_started_from_an_uploaded_file_after_its_forecast(page, site, tmp_path):
    data = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]
    rows = [[{**turns[0], "content": f"hi {n}"}, turns[1]] for n in range(30)]
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    page.goto("/tune")
    page.set_input_files("#tune-upload", str(data))
    wait_for(page, "document.getElementById('tune-file').value.startsWith('file-')")
    assert not page.locator("#tune-start").is_visible()
    page.fill("#tune-epochs", "2")
    page.click("#tune button[type=submit]")
    wait_for(page, "!document.getElementById('tune-forecast').hidden", 90)
    told = page.locator("#tune-rows").text_content()
    assert "Time" in told and "n_epochs 2" in told and "Memory" in told
    page.fill("#tune-epochs", "1")  # another wish needs another forecast
    assert not page.locator("#tune-start").is_visible()
    page.click("#tune button[type=submit]")
    wait_for(page, "!document.getElementById('tune-forecast').hidden", 90)
    page.click("#tune-start")
    page.wait_for_selector("text=ftjob-")
    assert page.locator("tbody .word").first.text_content() in ("validating files", "queued")


def test_tables_sort_and_charts_tell_values(page):
    page.goto("/runs")
    page.click("thead th:first-child button")
    names = page.locator("tbody th a").all_text_contents()
    assert names == sorted(names)
    page.goto("/runs/topics-1")
    page.locator("svg.plot").first.hover()
    assert "step" in page.locator(".readout:not([hidden])").first.text_content()


def test_on_a_phone_the_open_page_is_in_sight_among_the_pages(page):
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("/", "/monitoring"):
        page.goto(path)
        box = page.locator("nav a[aria-current]").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 391, path
