"""The dirt planted in the embedded support tickets is found by `check`; bench/check_dirt.py has the
kinds that need a model, and the figures.
"""

import json
from collections import defaultdict

import pytest

from tunewright.checking import check
from tunewright.config import make_recipe
from tunewright.data.embedded import embedded_folder
from tunewright.data.formats import read_rows
from tunewright.journal import silence

AUDITS = ("broken_text", "personal_data", "template_traces", "other_languages", "truncated")
FOUND_BY = {
    "exact_duplicate": {"duplicate_exact"},
    "normalised_duplicate": {"duplicate_text"},
    "conflicting_label": {"label_conflict"},
    "leak_exact": {"leak_exact"},
    "leak_normalised": {"leak_text"},
}


@pytest.fixture(scope="module")
def found():
    """Finding kind to the ids of the rows it names; and of all rows that a warning names."""
    folder = embedded_folder("support-tickets")
    ids = {place: row["id"] for place, row in read_rows(str(folder / "train.csv"))}
    recipe = make_recipe({"data": {"train": "embedded:support-tickets"}})
    checkup = check(recipe, silence(), only=AUDITS, learn=False, embed=False)
    named, warned = defaultdict(set), set()
    for item in checkup.findings:
        named[item.kind] |= {ids.get(place, place) for place in item.places}
        if item.severity == "warn":
            warned |= {ids.get(place, place) for place in item.places}
    dirt = [json.loads(line) for line in (folder / "dirt.jsonl").read_text().splitlines()]
    return named, warned, dirt


@pytest.mark.parametrize(
    "kind",
    [
        *FOUND_BY, "mojibake", "html_remnants", "personal_data_email", "personal_data_phone",
        "personal_data_card", "personal_data_iban", "personal_data_ip", "personal_data_key",
    ],
)  # fmt: skip
def test_every_planted_row_is_named(found, kind):
    named, _, dirt = found
    rows = set().union(*(named[name] for name in FOUND_BY.get(kind, {kind})))
    planted = [entry for entry in dirt if entry["kind"] == kind]
    # Of a row and its copy either one leads to the other.
    missed = [
        e["id"]
        for e in planted
        if not ({e["id"]} | ({e["of"]} if "duplicate" in kind else set())) & rows
    ]
    assert planted and missed == []


def test_no_clean_row_is_named(found):
    _, warned, dirt = found
    dirty = {entry["id"] for entry in dirt} | {entry["of"] for entry in dirt}
    assert warned - dirty == set()
