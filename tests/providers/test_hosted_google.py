"""Recipe to report at an emulated Google, through the unmodified SDK: every state, every error."""

import json

import pytest
from tests.providers.conftest import write_chats, write_rows
from tests.providers.google_emulator import KEY, TOKEN, GoogleEmulator, credentials_file
from tests.providers.local_server import serving
from tests.providers.test_hosted_openai import holding

from tunewright.config import make_recipe
from tunewright.errors import DataError, Interrupted, ProviderError, RecipeError
from tunewright.hosted import cancel_hosted, train_hosted
from tunewright.hosted_asking import open_provider
from tunewright.journal import Journal
from tunewright.store import RunFolder

NAMES = ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION",
         "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE")  # fmt: skip


@pytest.fixture
def google(monkeypatch, tmp_path):
    """An emulated project on loopback, with credentials for it in the environment."""
    emulator = GoogleEmulator()
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with serving(emulator.app) as live:
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", live.url)
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", live.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", live.url)
        file = credentials_file(tmp_path, live.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        yield emulator


def recipe_for(source, **changes):
    values = {
        "provider": "google", "base_model": "gemini-2.5-flash",
        "data": {"train": str(source), "validation": 0.15, "test": 0.25},
        "hosted": {"poll_s": 0.01, "patience_s": 3, "project": "acme", "location": "us-central1",
                   "bucket": "gs://rows/tuning"},
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return make_recipe(values)


def go(recipe, folder, **options):
    return train_hosted(recipe, folder, Journal(), consent=lambda told, usd: True, **options)


def test_from_recipe_to_report_on_vertex(google, tmp_path):
    recipe = recipe_for(write_rows(tmp_path), adapter={"r": 4}, training={"num_epochs": 2},
                        hosted={"learning_rate_multiplier": 0.5})  # fmt: skip
    report = go(recipe, tmp_path / "run")
    systems = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert systems["tuned"] == 1.0 and systems["base"] == 0.0
    assert report.cost.tokens.measured == 10 * 54 * 2
    job = google.jobs["1"]["job"]
    spec = job["supervisedTuningSpec"]
    assert spec["hyperParameters"] == {
        "epochCount": 2, "adapterSize": "ADAPTER_SIZE_FOUR", "learningRateMultiplier": 0.5,
    }  # fmt: skip
    assert spec["validationDatasetUri"] in google.objects and job["baseModel"].endswith("flash")
    line = json.loads(google.objects[spec["trainingDatasetUri"]].splitlines()[0])
    assert [turn["role"] for turn in line["contents"]] == ["user", "model"]
    assert "account, card" in line["systemInstruction"]["parts"][0]["text"]
    for secret in (TOKEN, "PRIVATE KEY"):
        assert not holding(tmp_path / "run", secret)
    assert RunFolder(tmp_path / "run").report_html.exists()


def test_a_conversation_becomes_contents(google, tmp_path):
    go(recipe_for(write_chats(tmp_path)), tmp_path / "run")
    spec = google.jobs["1"]["job"]["supervisedTuningSpec"]
    for row in map(json.loads, google.objects[spec["trainingDatasetUri"]].splitlines()):
        assert set(row) == {"contents"} and row["contents"][-1]["role"] == "model"


def test_the_gemini_api_answers_and_does_not_tune(google, tmp_path, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    alone = {"project": None, "bucket": None}
    with pytest.raises(ProviderError, match="does not tune any more"):
        go(recipe_for(write_rows(tmp_path), hosted=alone), tmp_path / "run")
    assert not google.jobs
    asked = open_provider("google", recipe_for(tmp_path / "tickets.csv", hosted=alone).hosted)
    reply = asked.ask("gemini-2.5-flash", [{"role": "user", "content": "hello"}], 16)
    assert reply.text == "I cannot tell" and reply.input_tokens == 20


@pytest.mark.parametrize(
    "model, thinking, room, billed",
    [
        ("gemini-2.5-flash", {"thinking_budget": 0}, 0, 2),  # as the SDK writes it
        ("gemini-2.5-pro", {"thinking_budget": 128}, 128, 130),
        ("gemini-3.5-flash", {"thinking_level": "LOW"}, 1024, 2),
    ],
)
def test_thinking_is_kept_short_and_is_billed(google, monkeypatch, model, thinking, room, billed):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    asked = open_provider("google", make_recipe({"provider": "google"}).hosted)
    reply = asked.ask(model, [{"role": "user", "content": "hello"}], 16)
    assert google.last["thinkingConfig"] == thinking
    assert google.last["maxOutputTokens"] == 16 + room
    assert reply.output_tokens == billed


@pytest.mark.parametrize(
    "states, ends",
    [
        (("QUEUED", "PENDING", "RUNNING", "PAUSED", "RUNNING", "UPDATING", "SUCCEEDED"), "ships"),
        (("UNSPECIFIED", "RUNNING", "PARTIALLY_SUCCEEDED"), "ships"),
        (("QUEUED", "FAILED"), r"google failed job .*The job failed"),
        (("QUEUED", "EXPIRED"), "ran out of time"),
        (("RUNNING", "CANCELLING", "CANCELLED"), "was cancelled"),
    ],
)
def test_every_state(google, tmp_path, states, ends):
    google.walk = states
    recipe = recipe_for(write_rows(tmp_path))
    if ends == "ships":
        assert go(recipe, tmp_path / "run").results[0].metrics["accuracy"].value == 1.0
        return
    with pytest.raises((DataError, ProviderError), match=ends):
        go(recipe, tmp_path / "run")
    with pytest.raises((DataError, ProviderError), match=ends):
        go(recipe, tmp_path / "run", resume=True)
    assert len(google.jobs) == 1


def test_a_failed_job_names_the_row(google, tmp_path):
    google.walk = ("QUEUED", "FAILED")
    google.error = {"code": 3, "message": "Invalid role in line 3 of the training dataset."}
    with pytest.raises(DataError, match=r"tickets\.csv:\d+: google failed job"):
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")


@pytest.mark.parametrize("path", ["/tuningJobs", "/o"])
def test_a_lost_answer_makes_nothing_twice(google, tmp_path, path):
    google.faults.order("POST", path, lost=True)
    go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert len(google.jobs) == 1 and len(google.objects) == 2


def test_a_job_made_just_before_death_is_found_among_many(google, tmp_path):
    data = write_rows(tmp_path)
    for name in "abcd":
        go(recipe_for(data), tmp_path / name)
    google.walk = ("QUEUED", *["RUNNING"] * 3, "SUCCEEDED")
    google.faults.order("GET", "/tuningJobs/5", status=503, times=10**6)
    with pytest.raises(Interrupted, match="does not answer"):
        go(recipe_for(data, hosted={"patience_s": 0.1}), tmp_path / "run")
    google.faults.ordered.clear()
    job = tmp_path / "run" / "job.json"
    noted = json.loads(job.read_text())
    del noted["id"]  # as if the process had died before it was written
    job.write_text(json.dumps(noted))
    report = go(recipe_for(data, hosted={"patience_s": 0.1}), tmp_path / "run", resume=True)
    assert len(google.jobs) == 5 and report.results[0].metrics["accuracy"].value == 1.0


@pytest.mark.parametrize(
    "status, body, match",
    [
        (401, {"error": {"code": 401, "message": "expired", "status": "UNAUTHENTICATED"}},
         "credentials are not accepted"),
        (403, {"error": {"code": 403, "message": "no right", "status": "PERMISSION_DENIED"}},
         "credentials are not accepted"),
        (400, {"error": {"code": 400, "message": "base model unknown", "status": "INVALID_ARGUMENT"}},
         "base model unknown"),
        (429, {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED",
                         "details": [{"violations": [{"quotaId": "TuningJobsPerDay"}]}]}},
         "quota is used up"),
    ],
)  # fmt: skip
def test_refusals_are_told_and_nothing_is_made(google, tmp_path, status, body, match):
    google.faults.order("POST", "/tuningJobs", status=status, body=body, times=9)
    with pytest.raises(ProviderError, match=match):
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert google.faults.count("POST", "/tuningJobs") == 1 and not google.jobs


def test_storms_are_waited_out_and_end_resumable(google, tmp_path):
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.05s"}
    body = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED",
                      "details": [info]}}  # fmt: skip
    google.faults.order("POST", "/tuningJobs", status=429, body=body, times=3)
    google.faults.order("POST", ":generateContent", status=429, body=body, times=5)
    go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert len(google.jobs) == 1
    info["retryDelay"] = "60s"
    google.faults.order("GET", "/tuningJobs", status=429, body=body, times=10**6)
    with pytest.raises(Interrupted, match="asks for 60 s more"):
        go(recipe_for(tmp_path / "tickets.csv"), tmp_path / "two")


def test_expired_credentials_and_none_at_all(google, tmp_path, monkeypatch):
    google.faults.order("POST", "/token", status=400, body={"error": "invalid_grant"}, times=99)
    with pytest.raises(ProviderError, match="log in again"):
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ProviderError, match="no credentials"):
        go(recipe_for(tmp_path / "tickets.csv"), tmp_path / "two")


def test_what_google_does_not_take_is_told_before_anything_is_sent(google, tmp_path):
    data = write_rows(tmp_path)
    with pytest.raises(ProviderError, match="hosted.bucket"):
        go(recipe_for(data, hosted={"bucket": None}), tmp_path / "one")
    with pytest.raises(RecipeError, match="adapter.r is 5"):
        go(recipe_for(data, adapter={"r": 5}), tmp_path / "two")
    with pytest.raises(RecipeError, match="objective is dpo"):
        go(recipe_for(write_chats(tmp_path, preference=True), objective="dpo"), tmp_path / "three")
    assert not google.jobs and not google.objects


def test_cancel(google, tmp_path, monkeypatch):
    import tunewright.hosted as hosted

    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(hosted.time, "sleep", stop)
    recipe = recipe_for(write_rows(tmp_path))
    with pytest.raises(Interrupted, match="goes on at google"):
        go(recipe, tmp_path / "run")
    assert cancel_hosted(recipe, tmp_path / "run").phase == "cancelled"
