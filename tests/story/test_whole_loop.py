"""Unattended from drift to recovery, with real commands; not one request fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.story.whole_loop import play

DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_drift_alarm_retune_gate_canary_promotion_recovery(tmp_path):
    if not (DATA / "banking77").is_dir():
        pytest.skip(f"{DATA}: no banking77; set TUNEWRIGHT_DATA")
    told = play(tmp_path, DATA)
    assert told["failed"] == []
    assert told["alarms_before_the_change"] == 0
    events = [line["event"] for line in told["story"]]
    order = [events.index(what) for what in ("alarm", "tuning", "canary", "promoted")]
    assert order == sorted(order)
    assert set(told["answered_by"]) == {"support@1", "support@2"}
    assert told["accuracy_before"] < 0.7
    joint = told["accuracy_of_training_on_everything"]
    assert told["accuracy_after"] >= joint - 0.02
    assert told["live_accuracy_after"] > told["live_accuracy_during"] + 0.1
