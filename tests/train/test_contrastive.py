"""Objectives for vectors against their formulas, and a whole run of task embed."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.asking import evaluate, open_asker
from tunewright.config import make_recipe
from tunewright.data.batch import make_batch
from tunewright.data.render import Row
from tunewright.errors import DataError, ModelError
from tunewright.evaluate.predict import vectors_of
from tunewright.evaluate.ranking import grade, rank
from tunewright.journal import silence
from tunewright.model.embed import embed
from tunewright.pipeline import train
from tunewright.records import Example
from tunewright.train.contrastive import in_batch_negatives, triplet

CPU = torch.device("cpu")
THINGS = ["card", "parcel", "transfer", "story", "dog", "coffee", "brother", "amount"]


def make_encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64,
        )  # fmt: skip
        return transformers.BertModel(config).eval()


def text_row(name, ids, other=None, weight=1.0):
    return Row(name, np.array(ids, dtype=np.int32), target=0, other=other, weight=weight)


def make_rows(count=4, thirds=True, seed=1):
    dice = np.random.default_rng(seed)

    def ids():
        return dice.integers(1, 64, int(dice.integers(3, 7)))

    rows = []
    for n in range(count):
        third = text_row(f"{n}-not", ids()) if thirds else None
        rows.append(text_row(str(n), ids(), text_row(f"{n}-found", ids(), third)))
    return rows


def alone(model, row, pooling="mean"):
    return embed(model, torch.tensor(row.input_ids[None].astype(np.int64)), None, pooling)[0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_does_not_change_a_vector(pooling):
    model, rows = make_encoder(), make_rows()
    batch = make_batch(rows, pad_id=0, device=CPU)
    vectors = embed(model, batch.ids_BT, batch.mask_BT, pooling)
    flat = [*rows, *(r.other for r in rows), *(r.other.other for r in rows)]
    for vector, row in zip(vectors, flat, strict=True):
        assert torch.allclose(vector, alone(model, row, pooling), atol=1e-5)
        assert math.isclose(float(vector.norm()), 1.0, rel_tol=1e-5)


def test_in_batch_negatives_is_the_formula():
    model, rows = make_encoder(), make_rows()
    rows[0] = replace(rows[0], weight=2.0)
    asked = torch.stack([alone(model, r) for r in rows])
    texts = torch.stack([alone(model, r.other) for r in rows])
    wrong = torch.stack([alone(model, r.other.other) for r in rows])
    scores = asked @ torch.cat([texts, wrong]).T * 20
    wanted = -torch.log_softmax(scores, 1)[range(4), range(4)] * torch.tensor([2.0, 1, 1, 1])
    found = in_batch_negatives(model, make_batch(rows, pad_id=0, device=CPU))
    assert math.isclose(float(found), float(wanted.sum()), rel_tol=1e-4)


def test_equal_texts_and_equal_inputs_are_no_negatives():
    model, rows = make_encoder(), make_rows(3, thirds=False)
    twin = replace(rows[0], id="twin", other=replace(rows[1].other, id="t"))
    more = make_batch([*rows[:2], twin], pad_id=0, device=CPU)
    # Row 0's own text stands alone: row 1's text is right for it too, by its twin.
    only = replace(more, weight_B=torch.tensor([1.0, 0.0, 0.0]))
    assert abs(float(in_batch_negatives(model, only))) < 1e-5


def test_triplet_is_the_formula():
    model, rows = make_encoder(), make_rows()
    wanted = 0.0
    for row in rows:
        a, p, n = (alone(model, r) for r in (row, row.other, row.other.other))
        wanted += max(0.0, 0.2 - float(a @ p) + float(a @ n))
    found = triplet(model, make_batch(rows, pad_id=0, device=CPU))
    assert wanted > 0 and math.isclose(float(found), wanted, rel_tol=1e-3, abs_tol=1e-5)


def test_grades_of_known_rankings():
    best = grade(np.array([0.9, 0.1, 0.2]), np.array([0]))
    assert best["ndcg@10"] == best["mrr"] == best["recall@1"] == 1.0
    third = grade(np.array([0.1, 0.9, 0.2]), np.array([0]))
    assert math.isclose(third["ndcg@10"], 1 / math.log2(4)) and third["mrr"] == 1 / 3
    assert third["recall@1"] == 0.0 and third["recall@5"] == 1.0
    nothing = grade(np.zeros(12), np.array([4]))
    assert nothing["ndcg@10"] == 0.0 and math.isclose(nothing["surprise"], math.log(12))
    two = grade(np.array([0.9, 0.8, 0.5, 0.1]), np.array([0, 2]))
    ideal = 1 + 1 / math.log2(3)
    assert math.isclose(two["ndcg@10"], (1 + 1 / math.log2(4)) / ideal)
    assert two["recall@1"] == 1.0 and two["recall@5"] == 1.0


def test_every_text_of_a_row_takes_part_in_the_ranking():
    examples = [Example("a", "", "x", "one", references=("one", "two"), rejected="not")]
    seen = []

    def scores(inputs, texts):
        seen.extend(texts)
        return np.array([[0.5, 0.4, 0.9, 0.1]])

    found = rank(examples, ("other", "one"), scores, "s", "test")[0]
    assert seen == ["one", "two", "not", "other"] and found.prediction == "not"
    assert found.graded["recall@1"] == 0.0 and found.graded["mrr"] == 0.5


def pairs(count=60, negative=False):
    rows = []
    for n in range(count):
        thing = THINGS[n % 8]
        row = {"anchor": f"where is my {thing} number {n}",
               "positive": f"the {thing} of order {n % 13} is here"}  # fmt: skip
        if negative:
            row["negative"] = f"the {THINGS[(n + 3) % 8]} is wrong"
        rows.append(row)
    return rows


def live(tmp_path, kind="bert", rows=None, name="run", resume=False, **more):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows or pairs())), encoding="utf-8")
    base = tmp_path / kind
    if not base.exists():
        make_tiny(kind, base, scale=1.0)
    values = {
        "task": "embed", "base_model": str(base),
        "data": {"train": str(path), "validation": 0.2, "test": 0.3},
        "training": {"num_threads": 1, "precision": "fp32", "max_steps": 30, "batch_size": 16,
                     "learning_rate": 3e-3, **more.pop("training", {})},
        **more,
    }  # fmt: skip
    return train(make_recipe(values), tmp_path / name, silence(), resume=resume), tmp_path / name


def test_a_run_learns_is_judged_and_loads_elsewhere(tmp_path):
    report, run = live(tmp_path, rows=pairs(negative=True))
    systems = {r.system: r.metrics for r in report.results}
    assert set(systems) == {"tuned", "base", "bm25", "tfidf_cosine"}
    tuned = systems["tuned"]["ndcg@10"]
    assert tuned.ci95[0] <= tuned.value <= tuned.ci95[1]
    assert tuned.value > systems["base"]["ndcg@10"].value
    assert {c.b for c in report.comparisons} == {"base", "bm25", "tfidf_cosine"}
    again = evaluate(str(run), str(tmp_path / "rows.jsonl"), silence())
    assert again.primary_metric == "ndcg@10"
    texts = ["where is my card", "the dog of order 3 is here"]
    ours = vectors_of(open_asker(str(run)), texts)
    plain = transformers.AutoModel.from_pretrained(run / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = plain(**inputs)[0]
    mask = inputs["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert np.abs(means.numpy() - ours).max() < 1e-5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sentence_transformers_gives_the_same_vectors(tmp_path, method):
    library = pytest.importorskip("sentence_transformers")
    _, run = live(tmp_path, adapter={"method": method}, training={"max_steps": 3},
                  evaluation={"baselines": []})  # fmt: skip
    texts = ["where is my card", "the dog of order 3 is here"]
    theirs = library.SentenceTransformer(str(run / "model"), device="cpu").encode(texts)
    ours = vectors_of(open_asker(str(run)), texts)
    assert np.abs(theirs - ours).max() < 1e-5


def test_a_decoder_embeds_by_its_last_token_and_prompts_travel(tmp_path):
    _, run = live(tmp_path, "llama", adapter={"method": "lora"}, training={"max_steps": 3},
                  evaluation={"baselines": []}, embedding={"query_prompt": "query: "})  # fmt: skip
    asker = open_asker(str(run))
    assert asker.base.pooling == "last" and asker.rendering.prompts == ("query: ", "")


def test_triplets_and_refusals(tmp_path):
    report, _ = live(tmp_path, rows=pairs(negative=True), embedding={"loss": "triplet"},
                     training={"max_steps": 3}, evaluation={"baselines": []})  # fmt: skip
    assert report.primary_metric == "ndcg@10"
    with pytest.raises(DataError, match="embedding.loss: in_batch"):
        live(tmp_path, name="other", embedding={"loss": "triplet"})
    with pytest.raises(DataError, match=r"set data.columns.output"):
        live(tmp_path, name="third", rows=[{"anchor": f"a {n}"} for n in range(20)])
    with pytest.raises(ModelError, match="use an encoder"):
        live(tmp_path, "t5", name="fourth")
