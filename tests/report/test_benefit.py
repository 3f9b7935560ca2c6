"""The cost-benefit page: complete, self-contained, and its sums those of decide/benefit.py."""

import json
import re
from html import unescape

import pytest

from benefit_fixture import make_worth
from tunewright.decide.benefit import find_value
from tunewright.report.benefit import benefit_section, make_benefit_page, net_present_value
from tunewright.store import to_plain
from tunewright.worth import worth_document


@pytest.fixture(scope="module")
def worth():
    return make_worth()


def test_the_page_holds_every_section_and_no_outside_file(worth):
    page = make_benefit_page(to_plain(worth_document(worth)), "runs/<first>")
    for name in ("verdict", "try", "volume", "doubt", "rivals", "costs"):
        assert f'id="{name}"' in page
    assert "http:" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert "https:" not in page and "runs/&lt;first&gt;" in page


def test_the_sliders_start_from_the_decision(worth):
    page = make_benefit_page(to_plain(worth_document(worth)), "x")
    state = json.loads(unescape(re.search(r'data-state="([^"]*)"', page)[1]))
    now = net_present_value(state, requests=state["requests"], gain=state["gain"])
    value = find_value(worth.tuned, worth.old, worth.stakes, worth.error_gain[0])
    assert now == pytest.approx(value.npv_usd)
    assert len(state["quantiles"]) == 200


def test_odd_shapes_are_left_out():
    assert benefit_section({"verdict": "GO"}) == {}
    assert benefit_section({"verdict": "MAYBE", "because": []}) == {}
