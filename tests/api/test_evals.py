"""The Evals surface through the official client: evals, runs over rows, output items."""

import json
import time

import openai
import pytest
from tests.api.conftest import Live, make_tiny
from tests.jobs.tuning_place import Place, jsonl

from tunewright.api import eval_runner
from tunewright.api.app import make_app
from tunewright.hosting import Hosting, find_served
from tunewright.jobs import evals
from tunewright.jobs.home import Home

SAME = {"type": "string_check", "name": "same", "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}", "operation": "eq"}  # fmt: skip
LIKE = {"type": "text_similarity", "name": "like", "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}", "evaluation_metric": "fuzzy_match", "pass_threshold": 0.5}  # fmt: skip
CONFIG = {"type": "custom", "include_sample_schema": True,
          "item_schema": {"type": "object", "properties": {"answer": {"type": "string"}}}}  # fmt: skip
ENDED = ("completed", "failed", "canceled")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals")
    made = Place(folder / "server", make_tiny("llama", folder / "tiny"))
    made.home = Home(made.database, made.folder, made.settings)
    return made


@pytest.fixture(scope="module")
def live(place):
    hosting = Hosting(find_served([place.base]))
    server = Live(make_app(hosting, database=place.database, home=place.home))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(live):
    # OpenAI's samples have a null `error` where its types know none, so not strict.
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def wait(client, eval_id, run_id):
    until = time.monotonic() + 90
    while time.monotonic() < until:
        run = client.evals.runs.retrieve(run_id, eval_id=eval_id)
        if run.status in ENDED:
            return run
        time.sleep(0.1)
    raise AssertionError(run.status)


def of_rows(*rows):
    return {"type": "jsonl", "source": {"type": "file_content", "content": list(rows)}}


def row(answer, said):
    return {"item": {"answer": answer}, "sample": {"output_text": said}}


def test_evals_are_made_listed_changed_and_deleted(client, live):
    strict = openai.OpenAI(
        base_url=f"{live.url}/v1", api_key="x", max_retries=0, _strict_response_validation=True
    )
    made = strict.evals.create(name="a", data_source_config=CONFIG, testing_criteria=[SAME, LIKE],
                               metadata={"team": "x"})  # fmt: skip
    assert made.data_source_config.schema_["required"] == ["item", "sample"]
    assert [item.name for item in made.testing_criteria] == ["same", "like"]
    assert strict.evals.retrieve(made.id).metadata == {"team": "x"}
    assert strict.evals.update(made.id, name="b").name == "b"
    more = [strict.evals.create(name=str(n), data_source_config=CONFIG, testing_criteria=[SAME]).id
            for n in range(3)]  # fmt: skip
    assert [item.id for item in strict.evals.list(limit=2)] == [made.id, *more]
    assert [item.id for item in strict.evals.list(order="desc", limit=2)] == [*more[::-1], made.id]
    for one in (made.id, *more):
        assert strict.evals.delete(one).deleted
    with pytest.raises(openai.NotFoundError):
        strict.evals.retrieve(made.id)


def test_rows_that_bring_their_answers(client):
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME, LIKE])
    rows = [row("Rome", "Rome"), row("Rome", "Romes"), row("Rome", "x"), {"item": {"answer": "a"}},
            {"item": {}, "sample": {"output_text": "b"}}]  # fmt: skip
    run = client.evals.runs.create(made.id, name="r", data_source=of_rows(*rows))
    assert run.status == "queued"
    run = wait(client, made.id, run.id)
    counts = run.result_counts
    assert (run.status, counts.total, counts.passed, counts.failed, counts.errored) == (
        "completed", 5, 1, 2, 2)  # fmt: skip
    by_name = {item.testing_criteria: (item.passed, item.failed)
               for item in run.per_testing_criteria_results}  # fmt: skip
    assert by_name == {"same": (1, 4), "like": (2, 3)}
    items = list(client.evals.runs.output_items.list(run.id, eval_id=made.id, limit=2))
    assert [item.datasource_item_id for item in items] == list(range(5))
    assert [item.status for item in items] == ["pass", "fail", "fail", "error", "error"]
    assert [r.score for r in items[1].results] == [0.0, pytest.approx(8 / 9)]
    assert "item.answer" in str(items[4].results[0].error)
    failed = client.evals.runs.output_items.list(run.id, eval_id=made.id, status="fail")
    assert len(failed.data) == 2
    again = client.evals.runs.output_items.retrieve(items[0].id, eval_id=made.id, run_id=run.id)
    assert again.datasource_item == {"answer": "Rome"}


def test_rows_that_a_model_answers_and_a_model_grades(client, place):
    judge = {"type": "label_model", "name": "judge", "model": "gpt-4o-mini", "labels": ["good", "bad"],
             "passing_labels": ["good"],
             "input": [{"role": "user", "content": "Is {{sample.output_text}} good?"}]}  # fmt: skip
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[judge])
    rows = [{"item": {"word": f"w{n}", "talk": [{"role": "user", "content": f"hi {n}"}]}}
            for n in range(11)]  # fmt: skip
    file = client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="evals")
    template = {"type": "template", "template": [{"role": "user", "content": "say {{item.word}}"}]}
    for messages in (template, {"type": "item_reference", "item_reference": "item.talk"}):
        source = {"type": "completions", "model": "gpt-4o-mini", "input_messages": messages,
                  "source": {"type": "file_id", "id": file.id},
                  "sampling_params": {"temperature": 0, "max_completion_tokens": 5, "seed": 3}}  # fmt: skip
        run = client.evals.runs.create(made.id, data_source=source)
        run = wait(client, made.id, run.id)
        assert run.status == "completed" and run.result_counts.total == 11
        assert run.result_counts.errored == 0 and run.model == "gpt-4o-mini"
        (used,) = run.per_model_usage
        assert used.invocation_count == 22 and used.total_tokens > used.completion_tokens > 0
        (item, *_) = client.evals.runs.output_items.list(run.id, eval_id=made.id)
        assert item.sample.input[0].content in ("say w0", "hi 0")
        assert item.sample.output[0].role == "assistant" and item.sample.seed == 3
    assert len(client.evals.runs.list(made.id).data) == 2


def test_a_model_that_is_not_there_is_an_error_of_each_row(client):
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME])
    source = {"type": "responses", "model": "none", "source": of_rows(row("a", "b"))["source"],
              "input_messages": {"type": "template", "template": [{"role": "user", "content": "x"}]}}  # fmt: skip
    run = wait(client, made.id, client.evals.runs.create(made.id, data_source=source).id)
    assert (run.status, run.result_counts.errored) == ("completed", 1)
    (item,) = client.evals.runs.output_items.list(run.id, eval_id=made.id)
    assert "does not exist" in item.sample.error.message


def test_a_run_is_cancelled_and_keeps_what_it_found(client, monkeypatch):
    real = eval_runner.EvalRunner._row

    async def slow(self, *given):
        await eval_runner.asyncio.sleep(0.2)
        return await real(self, *given)

    monkeypatch.setattr(eval_runner.EvalRunner, "_row", slow)
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME])
    many = of_rows(*[row("a", "a")] * 400)
    run = client.evals.runs.create(made.id, data_source=many)
    while not client.evals.runs.output_items.list(run.id, eval_id=made.id).data:
        time.sleep(0.05)
    assert client.evals.runs.cancel(run.id, eval_id=made.id).status == "canceled"
    with pytest.raises(openai.BadRequestError, match="nothing to cancel"):
        client.evals.runs.cancel(run.id, eval_id=made.id)
    monkeypatch.undo()
    after = client.evals.runs.create(made.id, data_source=of_rows(row("a", "a")))
    assert wait(client, made.id, after.id).status == "completed"  # the runner goes on
    assert 0 < len(list(client.evals.runs.output_items.list(run.id, eval_id=made.id))) < 400
    assert client.evals.runs.delete(run.id, eval_id=made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.evals.runs.retrieve(run.id, eval_id=made.id)


def test_a_run_goes_on_where_a_server_left_it(client, place):
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME])
    run = evals.add_run(place.database, made.id, name="x", model="", metadata=None,
                        source=of_rows(*[row("a", "a")] * 3))  # fmt: skip
    dead = evals.claim_run(place.database, "dead", now=time.time() - 3600)
    assert dead is None or dead["id"] == run["id"]
    done = wait(client, made.id, run["id"])
    assert done.result_counts.passed == 3
    with pytest.raises(evals.RunLostError):
        evals.note_items(place.database, run["id"], "dead", [])


def test_files_whose_rows_are_none_fail_the_run_by_line(client):
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME])
    for data, says in [(b'{"item": {}}\n[1]\n', "line 2"), (b'{"x": 1}\n', "line 1: there is no")]:
        file = client.files.create(file=("r.jsonl", data), purpose="evals")
        source = {"type": "jsonl", "source": {"type": "file_id", "id": file.id}}
        run = wait(client, made.id, client.evals.runs.create(made.id, data_source=source).id)
        assert run.status == "failed" and says in run.error.message


@pytest.mark.parametrize(
    ("change", "match"),
    [({"testing_criteria": [{**SAME, "operation": "lt"}]}, "testing_criteria.0"),
     ({"testing_criteria": [SAME, SAME]}, "given twice"), ({"testing_criteria": []}, "criteria"),
     ({"data_source_config": {"type": "logs"}}, "no logs"),
     ({"data_source_config": {"type": "custom"}}, "item_schema"),
     ({"metadata": {"a": "\0"}}, "NUL"),
     ({"testing_criteria": [{"type": "python", "name": "p", "source": "x"}]}, "python_graders")],
)  # fmt: skip
def test_wrong_evals_are_refused_by_field(client, change, match):
    body = {"data_source_config": CONFIG, "testing_criteria": [SAME], **change}
    with pytest.raises(openai.BadRequestError, match=match):
        client.evals.create(**body)


@pytest.mark.parametrize(
    "source",
    [{}, {"type": "jsonl"}, {"type": "jsonl", "source": {"type": "file_id", "id": "file-none"}},
     {"type": "jsonl", "source": {"type": "file_content", "content": [{"x": 1}]}},
     {"type": "completions", "source": of_rows(row("a", "b"))["source"]},
     {"type": "completions", "model": "m", "source": of_rows(row("a", "b"))["source"],
      "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{x}}"}]}},
     {"type": "completions", "model": "m", "source": of_rows(row("a", "b"))["source"],
      "input_messages": {"type": "item_reference", "item_reference": "sample"}, "sampling_params": 3}],
)  # fmt: skip
def test_wrong_runs_are_refused_by_field(client, source):
    made = client.evals.create(data_source_config=CONFIG, testing_criteria=[SAME])
    with pytest.raises(openai.BadRequestError, match="data_source"):
        client.evals.runs.create(made.id, data_source=source)
    with pytest.raises(openai.NotFoundError):
        client.evals.runs.create("eval_none", data_source=of_rows(row("a", "b")))
    assert json.dumps(client.evals.runs.list(made.id).data) == "[]"
