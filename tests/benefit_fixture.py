"""A run's worth with made answers, for tests of the page and of the command."""

import json
from datetime import date

import numpy as np

from tunewright.config import make_recipe
from tunewright.prices import Price, Prices
from tunewright.records import Prediction
from tunewright.worth import find_worth

TODAY = date(2026, 11, 24)
PRICES = Prices([Price("device_hour", "this", 0.4, "own bill", TODAY)])
BUSINESS = {
    "requests_per_month": [60_000, 100_000, 150_000],
    "cost_per_error_usd": [0.2, 0.5, 1.0],
    "minutes_per_label": 0.5,
    "usd_per_hour": 24,
    "people_hours": 16,
    "monitoring_usd_per_month": 40,
    "retunes_per_year": 4,
    "price_spread": 0.2,
    "options": {
        "tuned": {"usd_per_month": 120},
        "hosted": {
            "model": "gpt-4.1-mini", "input_tokens": 2000, "cached_tokens": 1900,
            "output_tokens": 30, "error_rate": 0.12, "latency_s": 0.8,
        },
        "person": {"usd_per_request": 0.45, "error_rate": 0.04},
    },
}  # fmt: skip


def make_answers(n=500, seed=1, tuned=0.10, base=0.22):
    """Predictions of two systems on the same rows; `base` is the share of its wrong ones."""
    rng = np.random.default_rng(seed)
    found = {}
    for system, wrong in (("tuned", tuned), ("tfidf_linear", base)):
        right = rng.random(n) >= wrong
        found[system] = [
            Prediction(f"r{i}", "test", system, f"text {i}", "a", "a" if ok else "b", 0.9)
            for i, ok in enumerate(right)
        ]
    return found


def make_worth(business=None, answers=None, prices=PRICES, **options):
    recipe = make_recipe({"task": "classify", "business": BUSINESS | (business or {})})
    figures = {"num_rows": 2000, "train_hours": 0.5, "num_draws": 4000, **options}
    return find_worth(
        recipe, answers or make_answers(), ("a", "b"), prices=prices, today=TODAY, **figures
    )


def save_run(folder, recipe_text, answers):
    """A run folder with what `benefit` reads."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_text)
    (folder / "report.json").write_text(json.dumps({"cost": {"seconds": {"measured": 1800}}}))
    sides = {"train": {"rows": 1500}, "validation": {"rows": 100}, "test": {"rows": 500}}
    (folder / "card.json").write_text(json.dumps({"labels": ["a", "b"], "splits": sides}))
    from tunewright.evaluate.saved import save_predictions

    save_predictions(folder / "predictions.jsonl", [p for rows in answers.values() for p in rows])
