import random

import numpy as np
import pytest

from data.audit.audit_rows import make_material, make_rows, make_texts
from tunewright.data.audit.buckets import band_keys, pairs_across, pairs_within
from tunewright.data.audit.near import cluster, find_near_duplicates, near_pairs
from tunewright.data.audit.shingles import jaccard, shingle, sign


def grams(text, size=4):
    padded = f" {text} ".ljust(size)
    return {padded[i : i + size] for i in range(len(padded) - size + 1)}


def plain_jaccard(first, second, size=4):
    a, b = grams(first, size), grams(second, size)
    return len(a & b) / len(a | b)


TEXTS = [
    "where is my card",
    "where is my new card",
    "x",
    "",
    "größe ist schön",
    "größe ist schon",
    "猫が好きです",
]


def test_jaccard_is_that_of_plain_sets():
    pairs = np.array([(i, j) for i in range(len(TEXTS)) for j in range(i, len(TEXTS))])
    wanted = [plain_jaccard(TEXTS[i], TEXTS[j]) for i, j in pairs]
    assert jaccard(TEXTS, pairs, 4) == pytest.approx(wanted)


def test_every_text_has_its_own_shingles():
    hashes, offsets = shingle(TEXTS, 4)
    for number, text in enumerate(TEXTS):
        mine = hashes[offsets[number] : offsets[number + 1]]
        alone, _ = shingle([text], 4)
        assert mine.tolist() == alone.tolist()
        assert len(set(mine.tolist())) == len(grams(text))


def test_signatures_estimate_jaccard_without_bias():
    texts = make_texts(200)
    rng = random.Random(3)
    others = [" ".join(word for word in text.split() if rng.random() > 0.2) for text in texts]
    a, b = sign(texts, 4, 256, 5), sign(others, 4, 256, 5)
    estimates = (a == b).mean(axis=0)
    true = np.array([plain_jaccard(x, y) for x, y in zip(texts, others, strict=True)])
    assert abs((estimates - true).mean()) < 0.01
    assert np.sqrt(np.square(estimates - true).mean()) < 0.04


def test_pairs_of_equal_keys():
    keys = np.array([5, 7, 5, 9, 5, 7], dtype=np.uint64)
    assert pairs_within(keys).tolist() == [[0, 2], [0, 4], [1, 5], [2, 4]]
    assert pairs_across(keys, 2, 100).tolist() == [[0, 2], [0, 4], [1, 5]]
    same = np.zeros(100, dtype=np.uint64)
    assert len(cluster(pairs_within(same, window=2), 100)) == 1
    assert pairs_within(np.zeros(0, dtype=np.uint64)).shape == (0, 2)


def test_bands_of_equal_signatures_are_equal():
    keys = band_keys(sign(["one text", "one text", "another text here"], 4, 8, 1), 4)
    assert (
        keys.shape == (2, 3)
        and (keys[:, 0] == keys[:, 1]).all()
        and (keys[:, 0] != keys[:, 2]).all()
    )


def planted(count=600, share=0.1):
    texts = make_texts(count, words_each=30)
    rng = random.Random(4)
    changed = [
        " ".join((words := text.split())[:9] + words[10:]) for text in texts[: int(count * share)]
    ]
    rng.shuffle(changed)
    return texts, changed


def test_near_pairs_are_those_of_a_plain_comparison():
    texts, changed = planted(150, 0.3)
    everything = texts + changed
    found = {tuple(pair) for pair in near_pairs(everything, threshold=0.8).tolist()}
    wanted = {
        (i, j)
        for i in range(len(everything))
        for j in range(i + 1, len(everything))
        if plain_jaccard(everything[i], everything[j]) >= 0.8
    }
    assert len(wanted) >= 40 and found == wanted


def test_workers_and_cache_change_nothing(tmp_path, monkeypatch):
    from tunewright.data.audit import near

    texts, changed = planted()
    alone = near_pairs(texts + changed)
    monkeypatch.setattr(near, "CHUNK_ROWS", 100)
    first = near_pairs(texts + changed, workers=2, cache=tmp_path)
    kept = sorted(tmp_path.glob("*.npy"))
    assert len(kept) == 7 and not list(tmp_path.glob("*.part"))
    kept[0].write_bytes(b"torn")
    signed = []
    monkeypatch.setattr(near, "sign", lambda *a: signed.append(a) or sign(*a))
    again = near_pairs(texts + changed, workers=2, cache=tmp_path)
    assert alone.tolist() == first.tolist() == again.tolist() and len(signed) == 1


def test_findings_name_rows_clusters_and_torn_labels():
    texts, changed = planted(300, 0.02)
    rows = make_rows(texts + changed, ["a", "b"] * 150 + ["c"] * len(changed))
    (found,) = find_near_duplicates(make_material(rows))
    assert len(found.clusters) == len(changed) == len(found.rows) == 6
    assert found.details["torn"] == 6 and found.counterparts[0].startswith("train.csv:")
    assert all(place.startswith("train.csv:30") for place in found.places)


def test_clean_rows_raise_nothing():
    assert not find_near_duplicates(make_material(make_rows(make_texts(2000))))
    assert not find_near_duplicates(make_material(make_rows(["", "!!", "one"])))


def test_embeddings_find_what_letters_cannot():
    texts = make_texts(50)
    directions = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    directions[7] = directions[3] * 2
    (found,) = find_near_duplicates(make_material(make_rows(texts), embed=lambda asked: directions))
    assert (
        found.clusters == (("train.csv:5", "train.csv:9"),)
        and found.details["pairs_by_meaning"] == 1
    )
