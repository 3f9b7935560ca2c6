from collections import Counter

import pytest

from tunewright.data.audit.classes import compare_counts, find_class_sizes, find_label_shift
from tunewright.data.audit.material import AuditMaterial
from tunewright.data.audit.table import AUDITS, run_audits
from tunewright.data.layout import Layout
from tunewright.errors import RecipeError
from tunewright.records import Example
from tunewright.sections import Columns


def rows(counts, name="train.csv"):
    labels = [label for label, number in counts.items() for _ in range(number)]
    return tuple(
        Example(f"{name}{i}", f"{name}:{i}", f"text {i}", label) for i, label in enumerate(labels)
    )


def material(train, test=None, **rest):
    layout = Layout("classify", "table", Columns(), tuple(sorted(train)))
    return AuditMaterial(layout, rows(train), test=rows(test or {}, "test.csv"), **rest)


def test_small_classes_are_named_with_their_rows():
    found = {f.kind: f for f in find_class_sizes(material({"a": 100, "b": 3, "c": 40}))}
    small = found["class_too_small"]
    assert "b (3)" in small.message and small.places == tuple(
        f"train.csv:{i}" for i in (100, 101, 102)
    )
    assert found["class_imbalance"].details["ratio"] == pytest.approx(33.33)


def test_even_classes_raise_nothing():
    assert not find_class_sizes(material({"a": 100, "b": 80}, {"a": 30, "b": 20}))


def test_classes_too_small_to_measure():
    found = find_class_sizes(material({"a": 100, "b": 80}, {"a": 30, "b": 3}))
    assert [f.kind for f in found] == ["class_not_measurable"]
    assert found[0].details["labels"] == {"b": 3}


def test_label_shift_is_seen_and_chance_is_not():
    assert not find_label_shift(material({"a": 500, "b": 500}, {"a": 55, "b": 45}))
    (found,) = find_label_shift(material({"a": 500, "b": 500}, {"a": 90, "b": 10}))
    assert found.details["distance"] == pytest.approx(0.4)
    assert "a 50.0% to 90.0%" in found.message


def test_rare_labels_are_pooled():
    first = Counter({f"l{i}": 1 for i in range(200)})
    second = Counter({f"l{i}": 1 for i in range(200, 400)})
    p, distance = compare_counts(first, second)
    assert p == 1.0 and distance == pytest.approx(1)


def test_table_runs_by_name_and_refuses_unknown_names():
    some = material({"a": 100, "b": 3})
    assert {f.kind for f in run_audits(some, only=["class_sizes"])} >= {"class_too_small"}
    assert not run_audits(
        some, only=["class_sizes"], options={"class_sizes": {"fewest_to_learn": 2, "skew": 99}}
    )
    with pytest.raises(RecipeError, match="no audit 'nonsense'"):
        run_audits(some, only=["nonsense"])
    assert all(name for name in AUDITS)
