"""Files of a run folder: what is written comes back, whatever stands in it."""

import json

import pytest

from tunewright.errors import RunError
from tunewright.store import append_jsonl, read_jsonl, write_jsonl

ODD = "a\u2028b\u2029c\x85d\x0be\nf"


def test_rows_with_every_kind_of_line_break_come_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"text": ODD}, {"text": "plain"}])
    append_jsonl(path, [{"text": ODD}])
    assert [row["text"] for row in read_jsonl(path)] == [ODD, "plain", ODD]


def test_a_torn_last_line_is_left_out_and_a_broken_one_before_it_is_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n" + '{"a": 2', encoding="utf-8")
    assert read_jsonl(path) == [{"a": 1}]
    path.write_text('{"a": 2\n{"a": 1}\n', encoding="utf-8")
    with pytest.raises(RunError, match=":1: not valid JSON"):
        read_jsonl(path)
    path.write_text("", encoding="utf-8")
    assert read_jsonl(path) == []
