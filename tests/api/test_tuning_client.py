"""The fine-tuning side through the unmodified OpenAI client, over a real server and its worker."""

from __future__ import annotations

import csv
import io
import json
import urllib.request

import openai
import pytest
from tests.api.tuning_server import TuningServer, wait_for, write_settings
from tests.jobs.tuning_place import RECIPE, chat_rows, jsonl
from tests.model_zoo import make_tiny

JOBS = {"recipe": RECIPE, "lease_s": 6.0, "grace_s": 3.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuning")
    base = make_tiny("llama", place / "llama")
    write_settings(place / "server", base, JOBS)
    started = TuningServer(place / "server")
    yield started
    started.stop()


@pytest.fixture
def client(server):
    return server.client(max_retries=0)


def upload(client, data=None, name="rows.jsonl", **options):
    return client.files.create(
        file=(name, data or jsonl(chat_rows())), purpose="fine-tune", **options
    )


def get_json(server, path):
    with urllib.request.urlopen(server.root + path) as reply:
        return json.load(reply)


@pytest.mark.timeout(600)  # a whole life, and others may be at work here
def test_from_upload_to_chat_and_away_again(server, client):
    file = upload(client)
    assert client.files.wait_for_processing(file.id).status == "processed"
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18", training_file=file.id, suffix="mine", seed=3,
        metadata={"team": "a"}, method={"type": "supervised", "supervised": {
            "hyperparameters": {"n_epochs": 2, "batch_size": 8}}},
    )  # fmt: skip
    assert job.status in ("validating_files", "queued") and job.object == "fine_tuning.job"
    assert (
        job.hyperparameters.n_epochs == 2 and job.hyperparameters.learning_rate_multiplier == "auto"
    )
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [job.id]
    done = wait_for(client, job.id)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert done.status == "succeeded", [event.message for event in events]
    assert done.hyperparameters.learning_rate_multiplier == 1.0 and done.error is None
    assert done.fine_tuned_model.startswith("ft:gpt-4o-mini-2024-07-18:local:mine:")
    assert len({event.id for event in events}) == len(events) > 8
    assert events[-1].message == f"Created fine-tuning job: {job.id}"
    step = next(event for event in events if event.type == "metrics")
    assert step.data["train_loss"] > 0

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert len(checkpoints) == 2 and checkpoints[0].step_number > checkpoints[1].step_number
    assert f":ckpt-step-{checkpoints[0].step_number}" in checkpoints[0].fine_tuned_model_checkpoint
    table = client.files.content(done.result_files[0]).text
    assert next(csv.DictReader(io.StringIO(table)))["train_loss"]

    offered = {model.id for model in client.models.list()}
    asked = [done.fine_tuned_model, *(c.fine_tuned_model_checkpoint for c in checkpoints)]
    assert offered >= set(asked)
    question = [{"role": "user", "content": "question 5 about my card"}]
    for name in [*asked, "gpt-4o-mini-2024-07-18"]:
        reply = client.chat.completions.create(
            model=name, messages=question, max_completion_tokens=8, temperature=0
        )
        assert reply.choices[0].message.content is not None and reply.model == name
    assert get_json(server, f"/v1/fine_tuning/jobs/{job.id}/report.json")["verdict"]

    permissions = client.fine_tuning.checkpoints.permissions
    given = permissions.create(asked[1], project_ids=["proj_1"])
    assert [row.project_id for row in given] == ["proj_1"]
    assert [row.id for row in permissions.list(asked[1])] == [given.data[0].id]
    assert permissions.delete(given.data[0].id, fine_tuned_model_checkpoint=asked[1]).deleted

    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=done.fine_tuned_model, messages=question)


def test_pause_resume_cancel(server, client):
    file = upload(client)
    options = {"model": "gpt-4o-mini", "training_file": file.id}
    job = client.fine_tuning.jobs.create(**options)
    # The client's own list of states leaves `paused` out, though its sample of this call has it.
    lenient = openai.OpenAI(base_url=server.url, api_key="none")
    assert lenient.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status in ("queued", "validating_files")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.fine_tuning.jobs.cancel(job.id)


def test_files_are_listed_read_and_deleted(client):
    made = [upload(client, name=f"../../{n}.jsonl", expires_after={"anchor": "created_at",
                                                                 "seconds": 3600}) for n in range(3)]  # fmt: skip
    newest = [file.id for file in client.files.list(purpose="fine-tune", limit=2)][:3]
    assert newest == [file.id for file in made[::-1]]
    assert client.files.content(made[0].id).content == jsonl(chat_rows())
    assert client.files.delete(made[0].id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made[0].id)


def test_an_upload_in_parts(client):
    data = jsonl(chat_rows(40))
    begun = client.uploads.create(
        bytes=len(data), filename="big.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    half = len(data) // 2
    parts = [
        client.uploads.parts.create(begun.id, data=piece) for piece in (data[half:], data[:half])
    ]
    with pytest.raises(openai.BadRequestError, match="bytes"):
        client.uploads.complete(begun.id, part_ids=[parts[0].id])
    done = client.uploads.complete(begun.id, part_ids=[parts[1].id, parts[0].id])
    assert done.status == "completed" and client.files.content(done.file.id).content == data
    assert client.files.wait_for_processing(done.file.id, poll_interval=0.5).status == "processed"
    other = client.uploads.create(
        bytes=5, filename="x.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert client.uploads.cancel(other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.uploads.parts.create(other.id, data=b"12345")


@pytest.mark.parametrize(
    ("data", "match"),
    [(b"a,b\n1,2\n", "Line 1 is not a dictionary"), (b"[1]\n", "Line 1 is not"), (b"", "empty")],
)
def test_what_is_no_jsonl_is_refused(client, data, match):
    before = len(list(client.files.list()))
    with pytest.raises(openai.BadRequestError, match=match):
        client.files.create(file=("rows.jsonl", data), purpose="fine-tune")
    assert len(list(client.files.list())) == before


def test_bad_rows_are_told_by_line(client):
    rows = chat_rows()
    rows[6]["messages"] = []
    file = upload(client, jsonl(rows))
    assert file.status == "error" and "Line 7: missing_messages_list" in file.status_details
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id)
    failed = wait_for(client, job.id)
    assert failed.status == "failed" and failed.error.param == "training_file"
    assert "Line 7" in failed.error.message


def test_wrong_jobs_are_refused_by_field(client):
    file = upload(client)

    def create(**values):
        plain = {"model": "gpt-4o-mini", "training_file": file.id}
        return client.fine_tuning.jobs.create(**{**plain, **values})

    wrong = [
        ({"training_file": "file-none"}, "training_file"),
        ({"model": "gpt-9"}, "model"),
        ({"model": "embedded:minilm"}, "causal"),
        ({"model": "/etc/passwd"}, "model"),
        ({"validation_file": file.id}, "validation_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "a/../b"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"method": {"type": "reinforcement"}}, "reinforcement"),
        ({"hyperparameters": {"n_epochs": 51}}, "n_epochs"),
    ]
    for values, match in wrong:
        with pytest.raises(openai.BadRequestError, match=match):
            create(**values)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        create(model="ft:none:local::x")
