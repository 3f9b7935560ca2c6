"""The worker with real trainings of a tiny model."""

import csv
import io
import time

import pytest
from tests.jobs.tuning_place import Place, chat_rows, jsonl, preference_rows
from tests.model_zoo import make_tiny
from tests.postgres_server import new_database

from tunewright.jobs import board
from tunewright.jobs.models import list_models
from tunewright.jobs.worker import Worker


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny("llama", tmp_path_factory.mktemp("base") / "llama")


def work(place, until, seconds=280):
    worker = Worker(place.database, place.folder, place.settings, say=print)
    ends = time.monotonic() + seconds
    worker.run(lambda: until() or time.monotonic() > ends)
    assert until()


def ended(place, *jobs):
    return lambda: all(board.get_job(place.database, j)["status"] in board.ENDED for j in jobs)


@pytest.mark.slow
def test_a_job_from_file_to_model(base, tmp_path):
    place = Place(tmp_path, base)
    job = place.submit(place.upload(jsonl(chat_rows())))
    work(place, ended(place, job))
    row = board.get_job(place.database, job)
    events = [e["message"] for e in board.list_events(place.database, job, limit=100).rows][::-1]
    assert row["status"] == "succeeded", events
    assert row["fine_tuned_model"] == row["tuned_name"] and row["trained_tokens"] > 0
    assert row["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
    }
    assert row["outcome"]["verdict"] in ("ship", "more data", "do not tune")
    assert [e for e in events if e.startswith("Step ")]
    assert events.index("Files validated, moving job to queued state") < events.index(
        "Fine-tuning job started"
    )
    checkpoints = board.list_checkpoints(place.database, job).rows
    assert len(checkpoints) == 3
    assert checkpoints[0]["step"] == max(c["step"] for c in checkpoints)
    assert checkpoints[0]["metrics"]["train_loss"] > 0
    names = {model["id"] for model in list_models(place.database)}
    assert names == {row["tuned_name"], *(c["model"] for c in checkpoints)}
    table = place.folder.file(row["result_files"][0]).read_text()
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [int(line["step"]) for line in lines] == list(range(1, row["total_steps"] + 1))


@pytest.mark.slow
def test_a_job_in_postgresql(base, tmp_path, postgres):
    place = Place(tmp_path, base, url=new_database(postgres))
    job = place.submit(place.upload(jsonl(chat_rows())))
    work(place, ended(place, job))
    row = board.get_job(place.database, job)
    assert row["status"] == "succeeded" and len(list_models(place.database)) == 4


@pytest.mark.slow
def test_a_preference_job(base, tmp_path):
    place = Place(tmp_path, base)
    file = place.upload(jsonl(preference_rows()))
    job = place.submit(file, method="dpo", hyperparameters={"n_epochs": 1, "beta": "auto"})
    work(place, ended(place, job))
    row = board.get_job(place.database, job)
    assert row["status"] == "succeeded", row["error"]
    assert row["hyperparameters"]["beta"] == 0.1


def test_bad_rows_fail_the_job_with_the_line(base, tmp_path):
    place = Place(tmp_path, base)
    rows = chat_rows()
    rows[20]["messages"][0]["role"] = "asistant"
    job = place.submit(place.upload(jsonl(rows)))
    few = place.submit(place.upload(jsonl(chat_rows(9))))
    work(place, ended(place, job, few))
    error = board.get_job(place.database, job)["error"]
    assert error["code"] == "invalid_training_file" and error["param"] == "training_file"
    assert "Line 21" in error["message"] and "asistant" in error["message"]
    assert "9 example(s)" in board.get_job(place.database, few)["error"]["message"]
