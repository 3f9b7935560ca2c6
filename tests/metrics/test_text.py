from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tunewright.metrics.table import METRICS, measure
from tunewright.metrics.text import bleu_of, bleu_rows, chrf_of, chrf_rows, token_f1
from tunewright.records import Prediction

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[3] / "shared" / "data")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "it's", "3.50", "(yes)", "Café", "."]
sentence = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


def make_row(number: int, answer: str, references: list[str]) -> Prediction:
    return Prediction(
        str(number), "test", "tuned", "", references[0], answer, references=tuple(references)
    )


def streams(rows: list[Prediction]) -> list[list[str | None]]:
    most = max(len(row.references) for row in rows)
    return [
        [row.references[i] if i < len(row.references) else None for row in rows]
        for i in range(most)
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(sentence, st.lists(sentence, min_size=1, max_size=4)), min_size=1, max_size=8
    )
)
def test_bleu_and_chrf_equal_sacrebleu_with_varying_references(
    pairs: list[tuple[str, list[str]]],
) -> None:
    rows = [make_row(i, answer, texts) for i, (answer, texts) in enumerate(pairs)]
    ours = measure(rows, ["bleu", "chrf"], ())
    answers = [str(row.prediction) for row in rows]
    bleu = sacrebleu.corpus_bleu(answers, streams(rows), force=True).score
    assert ours["bleu"] == pytest.approx(bleu, abs=1e-6)
    assert ours["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(answers, streams(rows)).score, abs=1e-6
    )


def test_bleu_of_many_sums_equals_one_at_a_time() -> None:
    rows = [
        make_row(i, "the cat sat on a mat", ["the cat sat on the mat", "cat"]) for i in range(5)
    ]
    rows.append(make_row(5, "", ["nothing"]))
    weights = np.random.default_rng(0).integers(0, 3, size=(4, 6)).astype(float)
    for of, made in ((bleu_of, bleu_rows(rows, ())), (chrf_of, chrf_rows(rows, ()))):
        together = of(weights @ made)
        assert together == pytest.approx([float(of(w @ made)) for w in weights])


def test_perfect_answers_score_full_and_nonsense_nothing() -> None:
    texts = ["a b c d e f", "the quick brown fox jumps"]
    perfect = [make_row(i, text, [text]) for i, text in enumerate(texts)]
    nonsense = [make_row(i, "zzz", [text]) for i, text in enumerate(texts)]
    full = {"bleu": 100.0, "chrf": 100.0}
    names = ["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match", "token_f1"]
    for name, value in measure(perfect, names, ()).items():
        assert value == pytest.approx(full.get(name, 1.0)), name
    assert set(measure(nonsense, names, ()).values()) == {0.0}


def test_rouge_equals_rouge_score_and_knows_other_scripts() -> None:
    rows = [make_row(0, "the cat sat on a mat", ["a cat was on the mat", "cats sit"])]
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"]).score_multi(
        list(rows[0].references), str(rows[0].prediction)
    )
    ours = measure(rows, list(theirs), ())
    assert ours == {name: pytest.approx(item.fmeasure) for name, item in theirs.items()}
    greek = [make_row(0, "καλημέρα κόσμε", ["καλημέρα κόσμε"])]
    assert measure(greek, ["rouge1"], ())["rouge1"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("The cat!", "cat", 1.0),
        ("a dog", "the cat", 0.0),
        ("", "", 1.0),
        ("", "x", 0.0),
        ("x y", "x", 2 / 3),
    ],
)
def test_token_f1(answer: str, reference: str, value: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(value)


def test_exact_match_ignores_outer_space_only() -> None:
    rows = [make_row(0, " .*[a-z] \n", [".*[a-z]"]), make_row(1, ".*[A-Z]", [".*[a-z]"])]
    assert measure(rows, ["exact_match"], ())["exact_match"] == 0.5


def test_perplexity_and_bits_per_byte() -> None:
    rows = [
        Prediction(str(i), "test", "x", "", None, None, nll_nats=n, num_tokens=t, num_bytes=b)
        for i, (n, t, b) in enumerate([(10.0, 5, 20), (2.0, 3, 10)])
    ]
    ours = measure(rows, ["perplexity", "bits_per_byte"], ())
    assert ours["perplexity"] == pytest.approx(math.exp(12 / 8))
    assert ours["bits_per_byte"] == pytest.approx(12 / 30 / math.log(2))
    assert not METRICS["perplexity"].higher_is_better


def test_multi_reference_bleu_of_real_rows_equals_sacrebleu() -> None:
    path = DATA / "e2e_nlg" / "devset.csv"
    if not path.exists():
        pytest.skip("no e2e_nlg: set TUNEWRIGHT_DATA to the folder of real data")
    texts: defaultdict[str, list[str]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            texts[line["mr"]].append(line["ref"])
    groups = list(texts.values())
    assert len({len(group) for group in groups}) > 3
    answers = [groups[i - 1][0] for i in range(len(groups))]
    rows = [
        make_row(i, answer, group)
        for i, (answer, group) in enumerate(zip(answers, groups, strict=True))
    ]
    bleu = sacrebleu.corpus_bleu(answers, streams(rows), force=True).score
    assert measure(rows, ["bleu"], ())["bleu"] == pytest.approx(bleu, abs=0.001)
