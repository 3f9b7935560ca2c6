"""Numbers, metrics and systems in words."""

import math

import pytest

from tunewright import figures


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [("accuracy", 0.93644, "93.6 %"), ("f1_macro", 1.0, "100.0 %"), ("f1[spam]", 0.972, "97.2 %"),
     ("mcc", 0.93562, "0.936"), ("bleu", 0.41, "0.41"), ("bleu", 48.312, "48.31"),
     ("mae", -0.00001, "0.000"), ("perplexity", 412.7, "412.7"), ("accuracy", math.nan, "–"),
     ("log_loss", 0.0004, "0.0004"), ("perplexity", 123456.7, "123,457")],
)  # fmt: skip
def test_values_in_words(metric, value, shown):
    assert figures.show_value(metric, value) == shown


def test_deltas_in_words():
    assert figures.show_delta("accuracy", 0.0247) == "+2.5 points"
    assert figures.show_delta("accuracy", -0.01) == "−1.0 point"
    assert figures.show_delta("accuracy", -0.0001) == "0.0 points"
    assert figures.show_delta_interval("accuracy", (-0.0198, 0.0012)) == "−2.0 to +0.1"
    assert figures.show_delta("mae", -0.0532) == "−0.053"
    assert figures.show_interval("accuracy", (-0.0001, 0.5)) == "0.0 to 50.0"


def test_amounts_in_words():
    seconds = [figures.show_seconds(s) for s in (0.84, 47, 119.6, 488.2, 7500, 360_000)]
    assert seconds == ["0.8 s", "47 s", "2 min 00 s", "8 min 08 s", "2 h 05 min", "4 d 04 h"]
    assert figures.show_bytes(1.31e9) == "1.2 GiB" and figures.show_bytes(512) == "512 B"
    assert figures.show_usd(0.0042) == "$0.0042" and figures.show_usd(1250) == "$1,250"
    assert figures.show_p(2e-7) == "< 0.001" and figures.show_p(0.0421) == "0.042"


def test_metric_names_in_words():
    names = ["f1_macro", "f1[spam]", "rougeL", "balanced_accuracy", "f1_positive", "my_own_thing"]
    assert [figures.metric_title(name) for name in names] == [
        "F1 (macro)", "F1 of spam", "ROUGE-L", "balanced accuracy", "F1 (rarer label)",
        "my own thing",
    ]  # fmt: skip


def test_every_metric_of_the_table_has_a_title():
    from tunewright.metrics.table import METRICS

    single = {"accuracy", "perplexity", "reward", "recall@1", "recall@5", "recall@10"}
    bare = [name for name in METRICS if figures.metric_title(name) == name]
    assert set(bare) <= single | {"chrf"}
