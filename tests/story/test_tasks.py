"""Every task through the whole pipeline, on tiny models and made-up rows."""

import json
import multiprocessing
import random
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from tests.model_zoo import make_tiny

from tunewright.asking import compare, evaluate, open_chat
from tunewright.config import make_recipe, read_recipe
from tunewright.data.prepare import prepare
from tunewright.data.render import render
from tunewright.errors import DataError, ModelError, RecipeError, Refusal, RunError
from tunewright.journal import silence
from tunewright.model.weights import load_tuned
from tunewright.pipeline import train
from tunewright.setup import make_setup

REPORT_KEYS = {
    "task", "base_model", "results", "comparisons", "forgetting", "cost", "verdict", "because",
}  # fmt: skip
STEP_KEYS = {
    "step", "tokens", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s",
    "peak_memory_bytes", "seconds",
}  # fmt: skip
PREDICTION_KEYS = {"id", "split", "system", "input", "reference", "prediction", "confidence"}
QUESTIONS = {
    "delivery": "where is my parcel",
    "card": "the card was refused",
    "account": "please close my account",
}


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Folder of a tiny model by kind, made once."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = make_tiny(kind, tmp_path_factory.mktemp("zoo") / kind)
        return str(made[kind])

    return folder


@pytest.fixture
def live(zoo, tmp_path):
    """Train a tiny model on rows; returns (report, run folder)."""

    def run(kind, rows, *, name="run", steps=3, data=None, baselines=(), **sections):
        training = {
            "num_threads": 1, "precision": "fp32", "max_steps": steps, "batch_size": 8,
            **sections.pop("training", {}),
        }  # fmt: skip
        judged = {"baselines": list(baselines), "max_new_tokens": 8}
        recipe = make_recipe({
            "base_model": zoo(kind),
            "data": {"train": write_rows(tmp_path / "rows.jsonl", rows), "validation": 0.2,
                     "test": 0.2, **(data or {})},
            "training": training,
            "evaluation": {**judged, **sections.pop("evaluation", {})},
            **sections,
        })  # fmt: skip
        return train(recipe, tmp_path / name, silence()), tmp_path / name

    return run


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def tickets(count=12):
    """Three classes, `count` rows of each, no two alike."""
    return [
        {"text": f"{question} {'again ' * (n % 4)}number {n}", "label": label}
        for n in range(count)
        for label, question in QUESTIONS.items()
    ]


def labelled_many(count=30):
    return [
        {"text": " and ".join(QUESTIONS[name] for name in names) + f" {n}", "labels": names}
        for n in range(count)
        for names in [[name for bit, name in enumerate(QUESTIONS) if (n % 7 + 1) >> bit & 1]]
    ]


def frauds(count=36):
    return [
        {"text": f"payment number {n}", "amount": 10.5 * (n % 7) + n / 100,
         "country": ("NL", "DE", "FR")[n % 3], "label": "fraud" if n % 7 > 4 else "fine"}
        for n in range(count)
    ]  # fmt: skip


def numbers(count=30):
    return [{"text": f"the length is {n} metres", "value": 100.0 + 2.5 * n} for n in range(count)]


def spans(count=24):
    rows = []
    for n in range(count):
        text = f"order {n} from Anna goes to Utrecht"
        at = text.index("Anna"), text.index("Utrecht")
        rows.append({"text": text, "spans": [
            {"start": at[0], "end": at[0] + 4, "label": "PERSON"},
            {"start": at[1], "end": at[1] + 7, "label": "PLACE"},
        ]})  # fmt: skip
    return rows


def bio(count=24):
    tags = ["O", "O", "O", "B-PER", "O", "B-LOC", "I-LOC"]
    return [
        {"tokens": ["order", str(n), "from", "Anna", "to", "New", "York"], "ner_tags": tags}
        for n in range(count)
    ]


def pairs(count=24):
    return [{"prompt": f"count to {n}", "completion": f"yes {n}"} for n in range(count)]


def talks(count=20):
    return [
        {"messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": "no", "weight": 0},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": f"yes {n}", "weight": 1},
        ]}
        for n in range(count)
    ]  # fmt: skip


def stories(count=24):
    return [
        {"text": f"Once upon a time there were {n} girls who loved to read."} for n in range(count)
    ]


CASES = {
    "classify-bert": ("bert", tickets, {}),
    "classify-bert-lora-bf16": (
        "bert", tickets, {"adapter": {"method": "lora", "r": 4}, "training": {"precision": "bf16"}},
    ),
    "classify-modernbert": (
        "modernbert", tickets,
        {"training": {"token_dropout": 0.2, "ema": 0.9, "label_smoothing": 0.1}},
    ),
    "classify-llama": ("llama", tickets, {"adapter": {"method": "lora", "r": 4}}),
    "classify-gpt2": ("gpt2", tickets, {}),
    "classify-t5": ("t5", tickets, {}),
    "multi-label-list": ("bert", labelled_many, {}),
    "multi-label-lora-llama": ("llama", labelled_many, {"adapter": {"method": "lora", "r": 4}}),
    "columns": ("bert", frauds, {"baselines": ("boosted_trees", "tfidf_linear",)}),
    "tag-spans": ("bert", spans, {}),
    "tag-bio-lora": ("modernbert", bio, {"adapter": {"method": "lora", "r": 4}}),
    "regress-bert": ("bert", numbers, {"task": "regress"}),
    "regress-llama": ("llama", numbers, {"task": "regress", "adapter": {"method": "lora", "r": 4}}),
    "generate-gpt2": ("gpt2", pairs, {"training": {"packing": True}}),
    "generate-qwen3": ("qwen3", pairs, {"adapter": {"method": "lora", "r": 4}}),
    "generate-t5": ("t5", pairs, {}),
    "generate-t5-lora": ("t5", pairs, {"adapter": {"method": "lora", "r": 4}}),
    "generate-phi": ("phi", pairs, {"training": {"label_smoothing": 0.1}}),
    "generate-gemma3": ("gemma3_text", pairs, {"training": {"packing": True, "ema": 0.5}}),
    "generate-gemma3-lora-bf16": (
        "gemma3_text", pairs,
        {"adapter": {"method": "lora", "r": 4}, "training": {"precision": "bf16"}},
    ),
    "chat-llama": ("llama", talks, {"training": {"packing": True}}),
    "chat-phi3": ("phi3", talks, {"adapter": {"method": "lora", "r": 4}}),
    "continue-mistral": ("mistral", stories, {"task": "continue", "training": {"packing": True}}),
    "continue-gpt2-lora": (
        "gpt2", stories, {"task": "continue", "adapter": {"method": "lora", "r": 4}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_task_leaves_a_whole_run_folder(live, zoo, case):
    kind, make, sections = CASES[case]
    report, folder = live(kind, make(), **sections)
    check_folder(report, folder)
    check_plain_libraries_agree(folder, zoo(kind))
    again = evaluate(str(folder), str(folder.parent / "rows.jsonl"), silence())
    assert again.results[0].n == len(make())
    (same,) = compare(str(folder), str(folder), silence())
    assert same.verdict == "cannot tell"


def check_folder(report, folder):
    document = json.loads((folder / "report.json").read_text())
    assert document.keys() >= REPORT_KEYS
    assert document["verdict"] in ("ship", "more data", "do not tune")
    assert document["because"]
    assert document["results"][0].keys() == {"system", "split", "n", "metrics"}
    assert document["results"][0]["system"] == "tuned"
    assert document["results"][0]["metrics"], "nothing was measured"
    assert set(document["cost"]) == {"seconds", "tokens", "peak_memory_bytes", "energy_kwh", "usd"}
    for name in ("seconds", "tokens", "peak_memory_bytes"):
        assert document["cost"][name]["measured"] > 0
        assert document["cost"][name]["forecast"] > 0
    steps = read_lines(folder / "steps.jsonl")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert all(line.keys() == STEP_KEYS for line in steps)
    before = None
    for line in read_lines(folder / "evaluations.jsonl"):
        assert line.keys() >= {"step", "metrics", "best"}
        order = (line["value"], -(line["loss"] or 0.0))
        assert line["best"] == (before is None or order > before)
        before = order if line["best"] else before
        assert line["metrics"]
    predictions = read_lines(folder / "predictions.jsonl")
    assert all(line.keys() >= PREDICTION_KEYS for line in predictions)
    tuned = [line for line in predictions if line["system"] == "tuned"]
    assert len(tuned) == document["results"][0]["n"] > 0
    card = json.loads((folder / "card.json").read_text())
    assert card
    manifests = list((folder / "checkpoints").glob("*/MANIFEST.json"))
    assert manifests
    assert (folder / "report.html").read_text().startswith("<!")
    assert (folder / "report.md").read_text().startswith("#")
    assert read_recipe(folder / "recipe.yaml").task == report.task


def check_plain_libraries_agree(folder, base):
    """transformers and PEFT alone give the logits that our own loading gives, in fp32."""
    place = folder / "model"
    manifest = json.loads((place / "tunewright.json").read_text())
    ours = load_tuned(folder)
    auto = {
        "classify": transformers.AutoModelForSequenceClassification,
        "regress": transformers.AutoModelForSequenceClassification,
        "tag": transformers.AutoModelForTokenClassification,
    }.get(
        manifest["task"],
        transformers.AutoModelForSeq2SeqLM
        if ours.kind == "encoder-decoder"
        else transformers.AutoModelForCausalLM,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    if manifest["method"] == "full":
        plain = auto.from_pretrained(place, dtype=torch.float32)
    else:
        settings = json.loads((place / "adapter_config.json").read_text())
        assert Path(settings["base_model_name_or_path"]) == Path(base)
        outputs = {"classify": len(manifest["labels"]), "regress": 1,
                   "tag": 1 + 2 * len(manifest["labels"])}  # fmt: skip
        sized = outputs.get(manifest["task"])
        options = {"num_labels": sized} if sized else {}
        plain = auto.from_pretrained(base, dtype=torch.float32, **options)
        plain.config.pad_token_id = tokenizer.pad_token_id
        plain = peft.PeftModel.from_pretrained(plain, str(place))
    batch = tokenizer(["where is my parcel number 7", "yes"], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    if ours.kind == "encoder-decoder" and manifest["task"] not in ("classify", "regress"):
        batch["decoder_input_ids"] = batch["input_ids"][:, :3]
    with torch.no_grad():
        theirs = plain.eval()(**batch).logits
        own = ours.model(**batch).logits
    assert torch.allclose(theirs, own, atol=1e-4)


def test_a_classifier_and_a_writer_answer_in_chat(live):
    _, classifier = live("bert", tickets(), name="classifier")
    session = open_chat(str(classifier))
    assert "%" in "".join(session.reply("where is my parcel"))
    assert session.last["prediction"] in QUESTIONS
    _, writer = live("llama", talks(), name="writer")
    session = open_chat(str(writer))
    said = "".join(session.reply("question 3"))
    assert session.last == {"text": said}
    assert [turn.role for turn in session.turns] == ["user", "assistant"]
    assert isinstance("".join(session.reply("and now?")), str)
    assert len(session.turns) == 4


def test_several_labels_in_one_cell(live):
    rows = [{"text": r["text"], "labels": "|".join(r["labels"])} for r in labelled_many()]
    report, folder = live("bert", rows, data={"label_separator": "|"}, task="classify")
    check_folder(report, folder)
    labels = json.loads((folder / "model" / "tunewright.json").read_text())["labels"]
    assert labels == sorted(QUESTIONS)
    lines = read_lines(folder / "predictions.jsonl")
    assert all(isinstance(line["prediction"], list) for line in lines)


@pytest.mark.slow
def test_default_rivals_for_every_task(live):
    for kind, rows, sections, expected in (
        ("bert", tickets(), {}, {"tuned", "base", "majority", "tfidf_linear", "linear_probe"}),
        ("bert", frauds(), {}, {"tuned", "boosted_trees"}),
        ("bert", spans(), {}, {"tuned", "majority", "tfidf_linear"}),
        ("bert", numbers(), {"task": "regress"}, {"tuned", "mean", "tfidf_linear"}),
        ("gpt2", pairs(), {}, {"tuned", "base", "few_shot", "nearest_neighbour"}),
        ("gpt2", stories(), {"task": "continue"}, {"tuned", "base"}),
    ):
        name = f"{kind}-{len(expected)}-{sections.get('task')}-{len(rows)}"
        report, _ = live(
            kind, rows, name=name, steps=1, evaluation={"baselines": "auto"}, **sections
        )
        assert {result.system for result in report.results} >= expected, name
        assert len(report.comparisons) == len(report.results) - 1


def test_the_same_shape_from_scratch_stands_beside(live):
    report, _ = live("gpt2", pairs(), baselines=("base", "from_scratch"), steps=2)
    assert [result.system for result in report.results] == ["tuned", "base", "from_scratch"]


def test_a_finished_run_is_not_run_again(live, tmp_path):
    report, folder = live("bert", tickets())
    recipe = read_recipe(folder / "recipe.yaml")
    before = (folder / "report.json").read_bytes()
    again = train(recipe, folder, silence(), resume=True)
    assert again.results == report.results
    assert again.verdict == report.verdict
    assert (folder / "report.json").read_bytes() == before
    other = recipe.model_copy(update={"base_revision": "other"})
    with pytest.raises(RunError, match="not the one this run began with"):
        train(other, folder, silence(), resume=True)
    with pytest.raises(RunError, match="--resume"):
        train(recipe, folder, silence())


def test_the_resolved_recipe_trains_the_same_weights(live, tmp_path):
    _, folder = live("bert", tickets())
    train(read_recipe(folder / "recipe.yaml"), tmp_path / "twin", silence())
    one, two = (place / "model" / "model.safetensors" for place in (folder, tmp_path / "twin"))
    assert one.read_bytes() == two.read_bytes()


def test_two_processes_cannot_share_a_run(live, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    _, folder = live("bert", tickets())
    recipe = read_recipe(folder / "recipe.yaml")
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            train(recipe, folder, silence(), resume=True)


def test_rows_of_a_group_stay_on_one_side(live):
    rows = [{**row, "customer": f"c{number // 4}"} for number, row in enumerate(tickets(16))]
    _, folder = live("bert", rows, data={"group": "customer"}, baselines=("majority",))
    groups = {line["group"] for line in read_lines(folder / "predictions.jsonl")}
    lines = [line for line in read_lines(folder / "predictions.jsonl") if line["system"] == "tuned"]
    assert len(lines) % 4 == 0
    assert len(groups) == len(lines) // 4


def test_without_validation_the_last_step_is_taken(live):
    report, folder = live("bert", tickets(), data={"validation": 0})
    assert report.verdict is not None
    assert not (folder / "evaluations.jsonl").exists() or not read_lines(
        folder / "evaluations.jsonl"
    )


def test_without_test_rows_there_is_no_judgement_but_a_model(live):
    report, folder = live("bert", tickets(), data={"test": 0})
    assert report.verdict != "ship"
    assert report.because
    assert load_tuned(folder).task == "classify"


def test_a_small_time_budget_ends_early(live):
    report, folder = live(
        "bert", tickets(), steps=5000, budget={"minutes": 0.003}, training={"num_epochs": 1000}
    )
    assert len(read_lines(folder / "steps.jsonl")) < 4000
    assert report.verdict is not None


def test_too_little_memory_is_a_no(live, tmp_path):
    with pytest.raises(Refusal, match=r"memory: .* needs at least .*budget.memory_gb allows"):
        live("bert", tickets(), budget={"memory_gb": 1e-6})
    live("bert", tickets())  # the same folder is free again


def test_answers_that_the_tokenizer_cannot_write_are_refused(live, zoo, tmp_path):
    rows = [{"prompt": f"count {n}", "completion": "[" * 9 + str(n)} for n in range(24)]
    poor = without_pieces(Path(zoo("t5")), tmp_path / "poor", "[")
    with pytest.raises(ModelError, match=r"cannot write .* pieces of the answers"):
        live("t5", rows, base_model=str(poor))


def without_pieces(source, folder, piece):
    """A copy of a model whose tokenizer lacks a character, and has an unknown token instead."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer.json"
    core = json.loads(path.read_text())
    vocabulary = core["model"]["vocab"]
    core["model"]["vocab"] = {name: i for name, i in vocabulary.items() if piece not in name}
    core["model"]["merges"] = [
        pair for pair in core["model"]["merges"] if piece not in "".join(pair)
    ]
    core["model"]["unk_token"] = "<unk>"  # noqa: S105 - a token of text
    path.write_text(json.dumps(core))
    return folder


def test_random_labels_never_ship(live):
    dice = random.Random(5)
    rows = [{**row, "label": dice.choice(sorted(QUESTIONS))} for row in tickets(30)]
    for seed in range(3):
        report, _ = live(
            "bert", rows, name=f"seed{seed}", steps=8, baselines=("majority", "tfidf_linear"),
            training={"seed": seed},
        )  # fmt: skip
        assert report.verdict != "ship"


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_clear_signal_is_learned(live, kind):
    report, _ = live(
        kind, tickets(30), steps=60, baselines=("majority",), training={"learning_rate": 5e-3}
    )
    assert report.results[0].metrics["accuracy"].value > 0.9
    assert report.comparisons[0].verdict == "better"


def test_completions_are_learned_and_end(live):
    rows = [{"prompt": f"count to {n}", "completion": "yes"} for n in range(40)]
    for kind, steps in (("gpt2", 50), ("qwen3", 50), ("t5", 120)):
        training = {"learning_rate": 1e-2, "num_epochs": 100, "early_stopping_patience": None}
        _, folder = live(kind, rows, name=kind, steps=steps, training=training)
        answers = {
            line["prediction"]
            for line in read_lines(folder / "predictions.jsonl")
            if line["system"] == "tuned"
        }
        assert answers == {"yes"}, kind


def test_only_weighted_turns_are_learned(live):
    """The turn of weight 0 says "no" in every row: it must not become likely."""
    _, folder = live("llama", talks())
    recipe = read_recipe(folder / "recipe.yaml")
    prepared = prepare(recipe.data, recipe.task, silence())
    setup = make_setup(recipe, prepared, silence())
    (row, *_) = render(setup.prepared.splits.train, setup.rendering)
    learned = setup.rendering.tokenizer.decode(row.input_ids[row.target_weights > 0])
    assert learned.startswith("yes ")
    assert learned.endswith("<|eot_id|>")
    assert "no" not in learned


def test_unknown_names_are_told_before_training(live):

    with pytest.raises(RecipeError, match="majority"):
        live("bert", tickets(), evaluation={"baselines": ["majorty"]})
    with pytest.raises(RecipeError, match="accuracy"):
        live("bert", tickets(), evaluation={"metrics": ["acuracy"]})
    live("bert", tickets())


def test_a_small_file_is_read_with_the_columns_of_training(live, tmp_path):
    _, folder = live("bert", frauds(60), steps=1)
    predictions = {
        line["id"]: line["confidence"]
        for line in read_lines(folder / "predictions.jsonl")
        if line["system"] == "tuned"
    }
    texts = {line["input"] for line in read_lines(folder / "predictions.jsonl")}
    few = [row for row in frauds(60) if row["text"] in texts][:5]
    for what in (folder, folder / "model"):
        asked = evaluate(str(what), write_rows(tmp_path / "few.jsonl", few), silence())
        rows = [row for row in asked.details["worst_rows"] if row["id"] in predictions]
        for row in rows:
            assert row["confidence"] == pytest.approx(predictions[row["id"]], abs=1e-4)
    bare = write_rows(tmp_path / "bare.jsonl", [{"text": "x", "label": "fraud"}] * 3)
    with pytest.raises(DataError, match="amount|country"):
        evaluate(str(folder), bare, silence())


def test_a_chat_template_from_a_file_is_used_and_saved(live, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    _, folder = live("gpt2", talks(), data={"chat_template": str(template)})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert said == "<user>x<|endoftext|>"
    with pytest.raises(RecipeError, match="neither a template nor a file"):
        live("gpt2", talks(), name="other", data={"chat_template": "no-such-file"})


def test_rows_with_nothing_to_learn_are_refused(live):
    silent = [{"messages": [{**turn, "weight": 0} for turn in row["messages"]]} for row in talks()]
    with pytest.raises(DataError, match="nothing to learn"):
        live("llama", silent)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.slow
def test_recomputed_activations_and_accumulation_change_no_number(live, kind):
    losses = []
    for number, training in enumerate(
        (
            {},
            {"activation_checkpointing": "on"},
            {"batch_size": 4, "gradient_accumulation_steps": 2, "num_workers": 1},
        )
    ):
        _, folder = live(
            kind, tickets(), name=f"run{number}", adapter={"method": "lora", "r": 4},
            training={"dropout": 0.0, **training},
        )  # fmt: skip
        losses.append([line["loss"] for line in read_lines(folder / "steps.jsonl")])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)
    assert not multiprocessing.active_children()
