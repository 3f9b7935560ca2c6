"""What goes by itself after some days, and what stays."""

import time

import pytest
from sqlalchemy import select, update
from tests.jobs.tuning_place import Place

from database_fixture import postgres, url  # noqa: F401 - fixtures
from tunewright.database.tables import CHECKPOINTS, DELIVERIES, EVENTS, FILES, JOBS, MODELS
from tunewright.jobs import board, leases
from tunewright.jobs.board import cancel_job
from tunewright.jobs.folder import JobFolder
from tunewright.jobs.models import delete_model, get_model
from tunewright.jobs.paging import new_id
from tunewright.jobs.retention import drop_old
from tunewright.settings import Retention

DAY = 86_400


@pytest.fixture
def place(tmp_path, url):  # noqa: F811 - the fixture
    return Place(tmp_path / "server", tmp_path / "base", url=url)


def finish(place, job_id):
    """As a worker ends it, with one checkpoint."""
    row, lease = leases.claim(place.database, "w", 60, lambda rows: (rows[0], {}))
    assert row["id"] == job_id
    folder = JobFolder(place.folder.job(job_id))
    for path in (folder.run.model, folder.run.checkpoints, folder.checkpoint_models / "step-4"):
        path.mkdir(parents=True)
    result = {"id": new_id("file-"), "filename": "r.csv", "purpose": "fine-tune-results",
              "bytes": 1, "sha256": "0" * 64, "created_at": int(time.time()),
              "status": "processed", "owner": ""}  # fmt: skip
    leases.note_succeeded(
        place.database, lease, row, folder=f"{job_id}/run", result_file=result, trained_tokens=1,
        checkpoints=[{"step": 4, "metrics": {}, "folder": f"{job_id}/checkpoint-models/step-4"}],
        outcome={"verdict": "ship", "because": []},
    )  # fmt: skip
    return board.get_job(place.database, job_id)["fine_tuned_model"]


def ids(place, table):
    with place.database.reading() as connection:
        return set(connection.execute(select(table.c.id)).scalars())


def later(place, days, **rules):
    return drop_old(
        place.database, place.folder, Retention(**rules), now=time.time() + days * DAY + 2
    )


def test_nothing_goes_unless_the_settings_say_so(place):
    file = place.upload(b"{}")
    job = place.submit(file)
    cancel_job(place.database, job)
    assert later(place, 3000) == {"files": 0, "jobs": 0, "checkpoints": 0, "deliveries": 0}
    assert ids(place, FILES) == {file} and ids(place, JOBS) == {job}


def test_files_go_once_no_open_job_reads_them(place):
    file, other = place.upload(b"{}"), place.upload(b"{}")
    job = place.submit(file)
    assert later(place, 1, files_days=2)["files"] == 0
    assert later(place, 2, files_days=2)["files"] == 1
    assert ids(place, FILES) == {file}
    assert place.folder.file(file).exists() and not place.folder.file(other).exists()
    cancel_job(place.database, job)
    assert later(place, 2, files_days=2)["files"] == 1 and ids(place, FILES) == set()


def test_jobs_that_made_nothing_go_with_all_that_hangs_on_them(place):
    file = place.upload(b"{}")
    ended, open_one = place.submit(file, metadata={"a": "b"}), place.submit(file)
    cancel_job(place.database, ended)
    place.folder.job(ended).mkdir()
    assert later(place, 1, ended_jobs_days=1)["jobs"] == 1
    assert ids(place, JOBS) == {open_one} and not place.folder.job(ended).exists()
    with place.database.reading() as connection:
        assert set(connection.execute(select(EVENTS.c.job_id)).scalars()) == {open_one}


def test_checkpoints_go_and_the_model_stays(place):
    job = place.submit(place.upload(b"{}"))
    model, folder = finish(place, job), JobFolder(place.folder.job(job))
    assert later(place, 3, checkpoints_days=3)["checkpoints"] == 1
    assert ids(place, CHECKPOINTS) == set() and ids(place, MODELS) == {model}
    assert folder.run.model.is_dir() and not folder.run.checkpoints.exists()
    assert not folder.checkpoint_models.exists()
    assert later(place, 3, checkpoints_days=3)["checkpoints"] == 0


def test_a_job_goes_when_all_its_models_were_deleted_and_none_is_tuned_further(place):
    job = place.submit(place.upload(b"{}"))
    model = finish(place, job)
    delete_model(place.database, model)
    assert later(place, 5, deleted_models_days=5)["jobs"] == 0  # its checkpoint still answers
    delete_model(place.database, f"{model}:ckpt-step-4")
    child = place.submit(place.upload(b"{}"), base_model=model)
    assert later(place, 5, deleted_models_days=5)["jobs"] == 0
    cancel_job(place.database, child)
    assert later(place, 5, deleted_models_days=5)["jobs"] == 1
    assert not place.folder.job(job).exists()
    with pytest.raises(KeyError):
        get_model(place.database, model)


def test_webhooks_that_were_told_are_forgotten_after_a_month(place):
    cancel_job(place.database, place.submit(place.upload(b"{}")))
    assert later(place, 30)["deliveries"] == 0  # it has not been told yet
    with place.database.writing() as connection:
        connection.execute(update(DELIVERIES).values(status="delivered"))
    assert later(place, 29)["deliveries"] == 0 and later(place, 30)["deliveries"] == 1
