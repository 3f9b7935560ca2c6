"""Recipe to report at an emulated OpenAI, through the unmodified SDK; and everything going wrong."""

import json
from datetime import date

import pytest
from tests.model_zoo import make_tiny
from tests.providers.conftest import write_chats, write_rows
from tests.providers.openai_emulator import KEY, error_body

from tunewright.config import dump_recipe, make_recipe
from tunewright.errors import DataError, Interrupted, ProviderError, RecipeError, Refusal
from tunewright.hosted import cancel_hosted, train_hosted
from tunewright.hosted_cost import table_name
from tunewright.journal import Journal
from tunewright.pipeline import train
from tunewright.prices import Price, Prices
from tunewright.providers.keys import without_key
from tunewright.providers.openai import open_openai
from tunewright.report.files import read_report
from tunewright.store import RunFolder
from tunewright.weighing import weigh_run

MODEL = "gpt-4.1-nano-2025-04-14"


def recipe_for(source, **changes):
    values = {
        "provider": "openai", "base_model": MODEL,
        "data": {"train": str(source), "validation": 0.15, "test": 0.25},
        "hosted": {"poll_s": 0.01, "patience_s": 3},
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return make_recipe(values)


def go(recipe, folder, **options):
    options.setdefault("consent", lambda told, usd: True)
    return train_hosted(recipe, folder, Journal(), **options)


def test_from_recipe_to_report(account, openai_url, tmp_path):
    report = go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    systems = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert systems["tuned"] == 1.0 and systems["base"] == 0.0 and systems["few_shot"] == 0.0
    assert {"majority", "tfidf_linear"} <= systems.keys()
    paired = {c.b: c for c in report.comparisons}
    assert paired["base"].verdict == "better" and "McNemar" in paired["base"].test
    assert report.cost.tokens.measured == 3 * 10 * 54 and report.cost.usd.measured == 0.0
    folder = RunFolder(tmp_path / "run")
    assert read_report(folder.report_json).verdict == report.verdict
    for path in (folder.recipe, folder.card, folder.steps, folder.evaluations, folder.predictions,
                 folder.report_html, folder.report_md, folder.state, folder.job):  # fmt: skip
        assert path.exists(), path
    assert [json.loads(x)["loss"] for x in folder.steps.read_text().splitlines()] == [2.0, 1.0]
    job = next(iter(account.jobs.values()))
    assert job["hyperparameters"] == {"n_epochs": 3} and job["seed"] == 17
    line = json.loads(account.content[job["training_file"]].splitlines()[0])
    roles = [turn["role"] for turn in line["messages"]]
    assert roles == ["system", "user", "assistant"] and "account, card" in str(line)


def test_the_run_stands_in_the_registry(account, openai_url, tmp_path):
    from tunewright.registry import summarise_run

    go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    summary = summarise_run(tmp_path / "run")
    assert summary.state == "finished" and summary.value == 1.0 and summary.base_model == MODEL


def test_preferences_go_as_pairs_and_are_judged_by_what_is_written(account, openai_url, tmp_path):
    data = write_chats(tmp_path, preference=True)
    report = go(recipe_for(data, objective="dpo", preference={"beta": 0.2}), tmp_path / "run")
    job = next(iter(account.jobs.values()))
    assert job["method"]["type"] == "dpo"
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    line = json.loads(account.content[job["training_file"]].splitlines()[0])
    assert set(line) == {"input", "preferred_output", "non_preferred_output"}
    tuned = next(r for r in report.results if r.system == "tuned")
    assert tuned.metrics["exact_match"].value == 1.0


def test_a_chat_file_travels_as_it_is(account, openai_url, tmp_path):
    go(recipe_for(write_chats(tmp_path)), tmp_path / "run")
    job = next(iter(account.jobs.values()))
    sent = [json.loads(x) for x in account.content[job["training_file"]].splitlines()]
    kept = [json.loads(x) for x in (tmp_path / "chats.jsonl").read_text().splitlines()]
    assert all(row in kept for row in sent)


def test_an_expired_key_is_told_and_stands_nowhere(account, openai_url, tmp_path, monkeypatch):
    bad = "sk-expired-ABCDEFGHIJKLMNOP"
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with pytest.raises(ProviderError, match="OPENAI_API_KEY is not accepted") as told:
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert bad not in str(told.value) and not account.jobs
    assert not holding(tmp_path / "run", bad)


@pytest.mark.parametrize("status", [400, 403])
def test_a_key_that_a_provider_shows_is_taken_out(account, openai_url, tmp_path, status):
    body = error_body(f"bad request by {KEY} and sk-other-0123456789")
    account.faults.order("POST", "/files", status=status, body=body, times=9)
    with pytest.raises(ProviderError, match="bad request by … and …") as told:
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert KEY not in str(told.value) and not holding(tmp_path / "run", KEY)


def test_a_key_of_any_shape_is_taken_out():
    assert without_key("no: tgp_v1_abcdef0123 is bad", "tgp_v1_abcdef0123") == "no: … is bad"
    assert without_key("words stay", None) == "words stay"


def test_no_key_says_where_one_is_looked_for(openai_url, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ProviderError, match="set OPENAI_API_KEY in the environment"):
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()  # a mended try may start here


def test_the_key_stands_in_no_file_of_the_run(account, openai_url, tmp_path):
    go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert not holding(tmp_path / "run", KEY)
    assert holding(tmp_path / "run", MODEL)  # the search itself finds what is there


def holding(folder, text):
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_openais_key_goes_to_openai_alone(account, openai_url, tmp_path, monkeypatch):
    monkeypatch.delenv("TUNEWRIGHT_PROVIDER_KEY")
    with pytest.raises(ProviderError, match="not accepted"):
        go(recipe_for(write_rows(tmp_path), provider=openai_url), tmp_path / "run")
    sent = {headers.get("authorization") for _, _, headers in account.faults.requests}
    assert f"Bearer {KEY}" not in sent


def test_a_url_is_a_provider_too(account, openai_url, tmp_path):
    report = go(recipe_for(write_rows(tmp_path), provider=openai_url), tmp_path / "run")
    assert report.cost.usd.forecast == 0.0  # a server on this machine sends no bill


def test_used_up_quota_ends_at_once(account, openai_url, tmp_path):
    body = error_body("You exceeded your current quota", kind="insufficient_quota",
                      code="insufficient_quota")  # fmt: skip
    account.faults.order("POST", "/fine_tuning/jobs", status=429, body=body, times=9)
    recipe = recipe_for(write_rows(tmp_path))
    with pytest.raises(ProviderError, match="quota is used up.*--resume with --run-dir"):
        go(recipe, tmp_path / "run")
    assert account.faults.count("POST", "/fine_tuning/jobs") == 1
    account.faults.ordered.clear()  # credit was added
    go(recipe, tmp_path / "run", resume=True, consent=None)  # agreed to already
    assert len(account.jobs) == 1 and len(account.files) == 2


def test_a_storm_of_429_is_waited_out_as_long_as_it_asks(account, openai_url, tmp_path):
    body = error_body("Rate limit reached", kind="rate_limit_error")
    account.faults.order("GET", "/fine_tuning/jobs/", status=429, body=body, times=4,
                         headers={"retry-after": "0.05"})  # fmt: skip
    account.faults.order("POST", "/chat/completions", status=429, body=body, times=6,
                         headers={"retry-after-ms": "20"})  # fmt: skip
    report = go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert len(account.jobs) == 1 and report.verdict


def test_an_endless_storm_ends_resumable_and_nothing_is_paid_twice(account, openai_url, tmp_path):
    recipe = recipe_for(write_rows(tmp_path), hosted={"patience_s": 0.2})
    body = error_body("Rate limit reached", kind="rate_limit_error")
    account.faults.order("POST", "/chat/completions", status=429, body=body, times=10**6,
                         headers={"retry-after": "30"})  # fmt: skip
    with pytest.raises(Interrupted, match="is busy") as told:
        go(recipe, tmp_path / "run")
    assert told.value.exit_status == 3 and "30 s" in str(told.value)
    account.faults.ordered.clear()
    go(recipe, tmp_path / "run", resume=True)
    assert len(account.jobs) == 1 and len(account.files) == 2


def test_a_job_that_failed_for_a_bad_row_names_it(account, openai_url, tmp_path):
    account.walk = ("validating_files", "failed")
    account.error = {"code": "invalid_training_file", "param": "training_file",
                     "message": "Invalid file format. Example 5 has an empty message."}  # fmt: skip
    with pytest.raises(DataError, match=r"tickets\.csv:\d+: openai failed job") as told:
        go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    row = json.loads(account.content["file-000001"].splitlines()[4])["messages"][1]["content"]
    line = int(str(told.value).split(":")[1])
    assert (tmp_path / "tickets.csv").read_text().splitlines()[line - 1].startswith(row)
    with pytest.raises(DataError):
        go(recipe_for(tmp_path / "tickets.csv"), tmp_path / "run", resume=True)
    assert len(account.jobs) == 1


def test_a_provider_that_vanishes_midway_is_found_again(account, openai_url, tmp_path):
    account.walk = (*account.walk[:3], *["running"] * 5, "succeeded")
    recipe = recipe_for(write_rows(tmp_path), hosted={"patience_s": 0.1})
    account.faults.order("GET", "/events", status=503, times=10**6)
    with pytest.raises(Interrupted, match="does not answer"):
        go(recipe, tmp_path / "run")
    account.faults.ordered.clear()
    report = go(recipe, tmp_path / "run", resume=True)
    assert len(account.jobs) == 1 and report.results[0].metrics["accuracy"].value == 1.0


@pytest.mark.parametrize("path", ["/files", "/fine_tuning/jobs"])
def test_a_lost_answer_makes_nothing_twice(account, openai_url, tmp_path, path):
    account.faults.order("POST", path, lost=True, times=1)
    go(recipe_for(write_rows(tmp_path)), tmp_path / "run")
    assert len(account.jobs) == 1 and len(account.files) == 2


def test_ctrl_c_leaves_the_job_unless_asked(account, openai_url, tmp_path, monkeypatch):
    import tunewright.hosted as hosted

    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(hosted.time, "sleep", stop)
    data = write_rows(tmp_path)
    with pytest.raises(Interrupted, match="goes on at openai"):
        go(recipe_for(data), tmp_path / "one")
    assert next(iter(account.jobs.values()))["status"] != "cancelled"
    with pytest.raises(Interrupted, match="is cancelled"):
        go(recipe_for(data, hosted={"cancel_on_interrupt": True}), tmp_path / "two")
    assert list(account.jobs.values())[1]["status"] == "cancelled"
    assert cancel_hosted(recipe_for(data), tmp_path / "one").phase == "cancelled"


def paid(openai_url, monkeypatch):
    """Loopback is free; as if it were the real thing, it is not."""
    import tunewright.providers.openai as module

    monkeypatch.setattr(module, "is_loopback", lambda url: False)


def test_a_budget_below_the_forecast_is_refused(account, openai_url, tmp_path, monkeypatch):
    paid(openai_url, monkeypatch)
    (tmp_path / "prices.yaml").write_text(
        "train_tokens: {gpt-4.1-nano: 1.5}\n"
        "input_tokens: {'ft:gpt-4.1-nano': 0.2, gpt-4.1-nano: 0.1}\n"
        "output_tokens: {'ft:gpt-4.1-nano': 0.8, gpt-4.1-nano: 0.4}\n"
    )
    data, business = write_rows(tmp_path), {"prices": str(tmp_path / "prices.yaml")}
    with pytest.raises(Refusal, match="nothing was sent or spent"):
        go(recipe_for(data, business=business, budget={"usd": 0.0001}), tmp_path / "run")
    assert not account.files and not account.jobs
    told = []
    with pytest.raises(Refusal, match="not agreed to"):
        go(recipe_for(data, business=business), tmp_path / "run",
           consent=lambda text, usd: told.append(usd) or False)  # fmt: skip
    # a count by characters may be too low, so a budget must allow more than the middle of it
    close = {"usd": told[0] / 1.2}
    with pytest.raises(Refusal, match="budget.usd allows"):
        go(recipe_for(data, business=business, budget=close), tmp_path / "run")
    with pytest.raises(Refusal, match="not agreed to"):
        go(recipe_for(data, business=business), tmp_path / "run", consent=lambda told, usd: False)
    recipe = recipe_for(data, business=business, budget={"usd": 5})
    report = go(recipe, tmp_path / "run", consent=None)
    cost = report.cost
    assert cost.usd.measured > 0 and 0 < cost.usd.forecast < 5
    # billed: 54 rows x 3 passes x 10 tokens, and every question with its answer
    asked = sum(10 * n for n in counts_of(tmp_path / "run"))
    assert cost.usd.measured == pytest.approx(1620 * 1.5e-6 + asked_usd(tmp_path / "run"))
    assert asked > 0


def counts_of(folder):
    return [json.loads(x)["input_tokens"] / 10 for x in (folder / "answers.jsonl").open()]


def asked_usd(folder):
    usd = 0.0
    for line in map(json.loads, (folder / "answers.jsonl").open()):
        twice = 2 if line["system"] == "tuned" else 1
        usd += twice * (line["input_tokens"] * 0.1 + line["output_tokens"] * 0.4) / 1e6
    return usd


def test_a_missing_price_is_asked_for_or_refused(account, openai_url, tmp_path, monkeypatch):
    paid(openai_url, monkeypatch)
    data, asked = write_rows(tmp_path), []
    recipe = recipe_for(data, base_model="gpt-9-nano")
    with pytest.raises(RecipeError, match="no train_tokens for gpt-9-nano"):
        go(recipe, tmp_path / "run")
    assert not account.files
    go(recipe, tmp_path / "run", ask=lambda name, why: asked.append(name) or 1.0)
    assert asked[0] == "train_tokens.gpt-9-nano" and "input_tokens.ft:gpt-9-nano" in asked


def test_conflicting_prices_are_not_chosen_from(account, openai_url, tmp_path, monkeypatch):
    paid(openai_url, monkeypatch)
    with pytest.raises(RecipeError, match="sources disagree"):
        go(recipe_for(write_rows(tmp_path), base_model="gpt-4o-mini-2024-07-18"), tmp_path / "run")


@pytest.mark.parametrize(
    "line, match",
    [
        ("what is <|fim_suffix|> for,card", r"tickets\.csv:92: holds the special token"),
        ("word " * 70_000 + ",card", r"tickets\.csv:92: about .* tokens; openai takes 65,536"),
    ],
)
def test_bad_rows_are_named_before_anything_is_sent(account, openai_url, tmp_path, line, match):
    data = write_rows(tmp_path)
    data.write_text(data.read_text() + line + "\n")
    recipe = recipe_for(data, data={"validation": 0.0, "test": str(write_test(tmp_path))})
    with pytest.raises(DataError, match=match):
        go(recipe, tmp_path / "run")
    assert not account.files


def write_test(folder):
    (folder / "t").mkdir()
    return write_rows(folder / "t", count=30, seed=9)


def test_too_few_rows_and_other_tasks_are_told(account, openai_url, tmp_path):
    with pytest.raises(DataError, match="wants 10 or more"):
        go(recipe_for(write_rows(tmp_path, count=12)), tmp_path / "run")
    (tmp_path / "n.csv").write_text("text,value\n" + "".join(f"t{i},{i}.5\n" for i in range(60)))
    with pytest.raises(RecipeError, match="task is regress"):
        columns = {"columns": {"input": "text", "output": "value"}}
        go(recipe_for(tmp_path / "n.csv", task="regress", data=columns), tmp_path / "run")
    with pytest.raises(RecipeError, match="objective is kto"):
        go(recipe_for(write_chats(tmp_path, preference=True), objective="kto"), tmp_path / "run")


def test_tuned_there_beside_another_run_and_a_large_model(account, openai_url, tmp_path):
    data = write_rows(tmp_path)
    go(recipe_for(data), tmp_path / "one")
    beside = {
        "earlier": {"run": str(tmp_path / "one")},
        "large": {"provider": "openai", "model": "gpt-4.1", "num_few_shot": 2},
    }
    report = go(recipe_for(data, evaluation={"beside": beside}), tmp_path / "two")
    assert {"tuned", "earlier", "large"} <= {r.system for r in report.results}
    paired = {c.b: c for c in report.comparisons}
    assert paired["earlier"].delta == 0 and paired["large"].verdict == "better"
    other = recipe_for(data, data={"split_seed": 5}, evaluation={"beside": beside})
    with pytest.raises(RecipeError, match="did not answer"):
        go(other, tmp_path / "three")
    assert len(account.jobs) == 2  # told before a third job was paid


@pytest.mark.parametrize("model, effort", [("gpt-5.4", "none"), ("gpt-5-mini", "minimal")])
def test_a_model_that_thinks_is_asked_in_its_own_way(account, openai_url, model, effort):
    provider = open_openai(None, patience_s=1)
    for _ in range(2):
        reply = provider.ask(model, [{"role": "user", "content": "hello"}], 16)
        assert reply.text == "I know 0 examples"
    manners = provider.manners[model]
    assert manners.effort == effort and not manners.temperature
    wanted = {"max_completion_tokens": 16 if effort == "none" else 1040, "reasoning_effort": effort}
    assert manners.values(16) == wanted
    tries = account.faults.count("POST", "/chat/completions")
    assert tries == (4 if effort == "none" else 5)  # what was learned is not tried again
    with pytest.raises(ProviderError, match="does not exist"):
        provider.ask("ft:gone", [{"role": "user", "content": "hello"}], 16)


def test_waiting_is_told_once(account, openai_url, tmp_path):
    said = []
    provider = open_openai(None, patience_s=30, sleep=lambda seconds: None)
    provider.patience.tell = said.append
    account.faults.order("GET", "/fine_tuning/jobs/x", status=503, times=2)
    with pytest.raises(ProviderError, match="Could not find"):
        provider.look("x")
    assert said == []  # no time went by
    clock = iter(range(0, 1000, 3))
    provider.patience.clock = lambda: float(next(clock))
    account.faults.order("GET", "/fine_tuning/jobs/x", status=503, times=4)
    with pytest.raises(ProviderError):
        provider.look("x")
    assert said == ["openai: does not answer (status 503); asked again for up to 30 s"]


def test_settings_without_effect_there_are_told(account, openai_url, tmp_path):
    journal = Journal()
    recipe = recipe_for(write_rows(tmp_path), training={"learning_rate": 1e-4, "num_epochs": 2},
                        adapter={"r": 8})  # fmt: skip
    train_hosted(recipe, tmp_path / "run", journal, consent=lambda told, usd: True)
    told = next(text for text in journal.warnings if "without effect" in text)
    assert "training.learning_rate" in told and "adapter.r" in told and "epochs" not in told


def test_nearest_examples_are_one_more_way_to_prompt(account, openai_url, tmp_path):
    data = write_rows(tmp_path)
    beside = {"large": {"provider": "openai", "model": "gpt-4.1", "num_few_shot": 2,
                        "examples": "nearest"}}  # fmt: skip
    report = go(recipe_for(data, evaluation={"beside": beside}), tmp_path / "run")
    assert {"retrieved", "few_shot", "large"} <= {r.system for r in report.results}
    lines = [json.loads(x) for x in (tmp_path / "run" / "answers.jsonl").open()]
    per_row = {"tuned": 20, "base": 20, "few_shot": 60, "retrieved": 100, "large": 60}
    for line in lines:  # ten tokens a turn: system, question, two turns for each example
        if line["system"] != "few_shot":
            assert line["input_tokens"] == per_row[line["system"]]


def test_a_report_with_business_counts_the_tokens_that_were_billed(
    account, openai_url, tmp_path, monkeypatch
):
    paid(openai_url, monkeypatch)
    asked = []
    business = {"requests_per_month": 1000, "cost_per_error_usd": 1, "people_hours": 1,
                "usd_per_hour": 50}  # fmt: skip
    recipe = recipe_for(write_rows(tmp_path), base_model="gpt-9-nano", business=business)
    report = go(recipe, tmp_path / "run", ask=lambda name, why: asked.append(name) or 100.0)
    assert report.cost.usd.measured == pytest.approx(
        100e-6 * (report.cost.tokens.measured + sum(tokens_of(tmp_path / "run")))
    )
    worth = report.details["benefit"]
    rivals = {rival["name"]: rival for rival in worth["rivals"]}
    assert rivals["tuned"]["request_usd"] == pytest.approx((20 + 2) * 100e-6)
    assert rivals["few_shot"]["request_usd"] == pytest.approx((100 + 2) * 100e-6)
    # the same by the command, though nobody answers for prices any more
    weighed, _ = weigh_run(RunFolder(tmp_path / "run"), prices=None, today=date.today())
    assert dict(weighed.costs)["training"] == pytest.approx(report.cost.usd.measured)
    assert weighed.decision.npv_usd == pytest.approx(worth["npv_usd"]["value"])


def test_tokens_from_the_cache_are_told_apart(account, openai_url):
    provider = open_openai(None, patience_s=1)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 60
    reply = provider.ask("gpt-4.1", [*turns, {"role": "user", "content": "c"}], 16)
    assert (reply.input_tokens, reply.cached_tokens) == (1210, 1152)


def tokens_of(folder):
    for line in map(json.loads, (folder / "answers.jsonl").open()):
        yield line["input_tokens"] + line["output_tokens"]


def test_a_tuned_model_that_is_tuned_further_costs_what_its_base_does():
    prices = Prices([Price("train_tokens", "gpt-4.1-mini", 5.0, "x", date(2026, 11, 25))])
    tuned = "ft:gpt-4.1-mini-2025-04-14:acme:first:Abc123"
    assert table_name("train_tokens", tuned, prices) == "gpt-4.1-mini"
    assert table_name("input_tokens", f"ft:{tuned}", prices) == "ft:gpt-4.1-mini"
    assert table_name("input_tokens", tuned, prices) == "ft:gpt-4.1-mini"


def test_tuned_here_tuned_there_and_prompted_in_one_report(account, openai_url, tmp_path):
    data = write_rows(tmp_path)
    here = recipe_for(
        data, provider="here", base_model=str(make_tiny("bert", tmp_path / "tiny")), task="classify",
        adapter={"method": "full"}, training={"max_steps": 2, "num_threads": 1},
        evaluation={"baselines": ["majority"]},
    )  # fmt: skip
    train(here, tmp_path / "here", Journal())
    beside = {
        "here": {"run": str(tmp_path / "here")},
        "large": {"provider": "openai", "model": "gpt-4.1", "num_few_shot": 2},
    }
    report = go(recipe_for(data, evaluation={"beside": beside}), tmp_path / "there")
    accuracy = {r.system: r.metrics["accuracy"].value for r in report.results}
    assert accuracy["tuned"] == 1.0 and accuracy["large"] == 0.0
    assert accuracy["here"] == read_report(tmp_path / "here").results[0].metrics["accuracy"].value
    paired = {c.b: c for c in report.comparisons}
    assert paired["here"].n == paired["large"].n == len(list(read_rows_of(tmp_path / "here")))
    page = (tmp_path / "there" / "report.html").read_text()
    assert "gpt-4.1 at openai" in page and "tuned of" in page


def read_rows_of(folder):
    for line in map(json.loads, (folder / "predictions.jsonl").open()):
        if line["system"] == "tuned" and line["split"] == "test":
            yield line


def test_plan_checks_and_prices_and_sends_nothing(account, openai_url, tmp_path, monkeypatch):
    paid(openai_url, monkeypatch)
    names = ("gpt-4.1-nano", "'ft:gpt-4.1-nano'")
    tokens = ", ".join(f"{name}: 1" for name in names)
    prices = tmp_path / "prices.yaml"
    kinds = ("train_tokens", "input_tokens", "output_tokens")
    prices.write_text("".join(f"{kind}: {{{tokens}}}\n" for kind in kinds))
    recipe = recipe_for(
        write_rows(tmp_path), budget={"usd": 0.000001},
        business={"requests_per_month": 1000, "cost_per_error_usd": 1},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    from tunewright.cli.main import run

    asked = ["plan", str(tmp_path / "recipe.yaml"), "--prices", str(prices)]
    assert run(asked) == 1  # beyond the budget
    assert run([*asked, "--set", "budget.usd=5"]) == 0
    assert not account.faults.requests
