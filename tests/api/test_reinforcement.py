"""Jobs that learn from a grader, and graders tried by themselves, through the official client."""

import openai
import pytest
from tests.api.tuning_server import TuningServer, wait_for, write_settings
from tests.jobs.tuning_place import RECIPE, jsonl
from tests.model_zoo import make_tiny

TOPICS = ("delivery", "card", "account")
CHECK = {"type": "string_check", "name": "topic", "input": "{{sample.output_text}}",
         "reference": "{{item.topic}}", "operation": "ilike"}  # fmt: skip
LIKE = {"type": "text_similarity", "name": "like", "input": "{{sample.output_text}}",
        "reference": "about the {{item.topic}}", "evaluation_metric": "fuzzy_match"}  # fmt: skip
BOTH = {"type": "multi", "name": "both", "graders": {"a": CHECK, "b": LIKE},
        "calculate_output": "0.5 * a + 0.5 * b"}  # fmt: skip


def prompts(num=24):
    for n in range(num):
        text = f"question {n} about my {TOPICS[n % 3]}"
        yield {"messages": [{"role": "user", "content": text}], "topic": TOPICS[n % 3]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("rewarded")
    recipe = {**RECIPE, "evaluation.max_new_tokens": 6, "grpo.beta": 0.0}
    jobs = {"recipe": recipe, "lease_s": 6.0, "grace_s": 3.0}
    write_settings(place / "server", make_tiny("llama", place / "llama"), jobs)
    started = TuningServer(place / "server")
    yield started
    started.stop()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_job_learns_from_a_grader(server):
    client = server.client(max_retries=0)
    file = client.files.create(file=("p.jsonl", jsonl(prompts())), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id).status == "processed"
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file.id, seed=3,
        method={"type": "reinforcement", "reinforcement": {"grader": LIKE, "hyperparameters": {
            "n_epochs": 1, "batch_size": 8, "compute_multiplier": 0.5}}},
    )  # fmt: skip
    done = wait_for(client, job.id)
    assert done.status == "succeeded", done.error
    used = done.method.reinforcement.hyperparameters
    assert used.compute_multiplier == 0.5 and isinstance(used.eval_interval, int)
    assert used.n_epochs == 1 and used.reasoning_effort == "default"
    assert done.method.reinforcement.grader.reference == LIKE["reference"]
    reply = client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "my card"}],
        max_tokens=4,
    )  # fmt: skip
    assert reply.choices[0].message.content is not None


def test_graders_are_tried_and_refused(server):
    client = server.client(max_retries=0)
    graders = client.fine_tuning.alpha.graders
    # The client's types know one grader below `graders`, where the service takes a map.
    lenient = openai.OpenAI(base_url=server.url, api_key="none").fine_tuning.alpha.graders
    found = lenient.run(grader=BOTH, model_sample="it is about the card", item={"topic": "card"})
    assert found.sub_rewards["a"] == 1.0 and 0.5 < found.reward <= 1.0
    assert not found.metadata.errors.formula_parse_error
    turns = [{"role": "user", "content": "Is {{sample.output_text}} good?"}]
    model = {"type": "score_model", "name": "m", "model": "gpt-4o-mini", "input": turns}
    asked = graders.run(grader=model, model_sample="x")
    assert 0 <= asked.reward <= 1 and asked.metadata.sampled_model_name == "gpt-4o-mini"
    assert graders.validate(grader=CHECK).grader.operation == "ilike"
    wrong = [({**CHECK, "operation": "lt"}, "operation"), ({**model, "model": "gpt-9"}, "gpt-9"),
             ({"type": "python", "name": "p", "source": "x"}, "python_graders")]  # fmt: skip
    for grader, match in wrong:
        with pytest.raises(openai.BadRequestError, match=match):
            graders.validate(grader=grader)
