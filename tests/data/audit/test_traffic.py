import numpy as np
import pytest

from data.audit.audit_rows import make_material, make_rows
from data.audit.test_triggers import topical
from tunewright.data.audit.traffic import compare_with_traffic
from tunewright.errors import DataError


def rows_of(pairs, name):
    return make_rows([text for text, _ in pairs], [label for _, label in pairs], name)


def kinds(findings):
    return {finding.kind: finding for finding in findings}


def test_alike_traffic_raises_no_warning():
    pairs = topical(1200)
    found = compare_with_traffic(
        make_material(rows_of(pairs[:800], "t")), rows_of(pairs[800:], "live")
    )
    assert set(kinds(found)) == {"traffic_summary"}
    assert found[0].details["coverage"] > 0.9 and abs(found[0].details["apartness"] - 0.5) < 0.08


def test_what_is_missing_is_named():
    pairs = topical(800)
    strange = [
        (f"parcel customs declaration overseas shipment {i} fee {i % 7}", None) for i in range(100)
    ]
    found = kinds(
        compare_with_traffic(
            make_material(rows_of(pairs, "t")), rows_of(pairs[:300] + strange, "live")
        )
    )
    missing = found["traffic_not_covered"]
    assert {place.partition(":")[0] for place in missing.places} == {"live"}
    assert len(set(missing.rows) & {f"live-{i}" for i in range(300, 400)}) >= 95
    assert any(
        word in missing.message
        for word in ("parcel", "customs", "declaration", "overseas", "shipment")
    )
    assert found["traffic_lengths"].severity == "warn"


def test_other_classes_are_told():
    pairs = topical(1600)
    asked = [pair for i, pair in enumerate(pairs[800:]) if pair[1] in "ab" or i % 3 == 0]
    found = kinds(
        compare_with_traffic(make_material(rows_of(pairs[:800], "t")), rows_of(asked, "live"))
    )
    moves = found["traffic_classes"].details["moves"]
    assert {name for name, move in moves.items() if move > 0.05} == {"a", "b"}
    with pytest.raises(DataError, match="--against"):
        compare_with_traffic(make_material(rows_of(pairs, "t")), [])


def test_embeddings_are_used_where_given():
    pairs = topical(200)
    seen = []

    def embed(texts):
        seen.append(len(texts))
        return np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)

    compare_with_traffic(
        make_material(rows_of(pairs[:100], "t"), embed=embed), rows_of(pairs[100:], "live")
    )
    assert seen == [200]
