"""Bad input through the command line: one line with place, value and remedy, and nothing lost."""

import json
import os
import shutil

import pytest
from tests.model_zoo import make_tiny

from tunewright.cli.main import run
from tunewright.config import parse_recipe
from tunewright.errors import RecipeError

QUESTIONS = {"delivery": "where is my parcel", "card": "my card was refused"}
ROWS = [(f"{text} number {n}", label) for n in range(20) for label, text in QUESTIONS.items()]
GOOD = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
LINES = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
TALK = json.dumps({"messages": [{"role": "user", "content": "x"},
                                {"role": "assistant", "content": "y"}]})  # fmt: skip
PLAIN = [f"hello number {n}" for n in range(40)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny("bert", tmp_path_factory.mktemp("zoo") / "bert")


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tell(house, bert, capsys):
    """Train on `content`; returns the one line of the error, or "" when all went well."""

    def call(content=GOOD, *, name="rows.csv", status=2, run_dir="run", base=None, more=()):
        data = content if isinstance(content, bytes) else content.encode()
        (house / name).write_bytes(data)
        recipe = {
            "base_model": str(base or bert),
            "data": {"train": name},
            "training": {"max_steps": 1, "num_threads": 1, "precision": "fp32"},
            "evaluation": {"baselines": []},
        }
        (house / "recipe.yaml").write_text(json.dumps(recipe))
        capsys.readouterr()
        words = ["train", "recipe.yaml", "--run-dir", run_dir]
        assert run([*words, *(f"--set={text}" for text in more)]) == status
        err = capsys.readouterr().err
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == (status != 0)
        if lines:
            assert err.splitlines()[-1] == lines[0]
            assert len(lines[0]) < 700
        return lines[0] if lines else ""

    return call


DATA = {
    "empty": ("", "rows.csv", ["rows.csv: empty (0 bytes)", "give a file"]),
    "blank": ("\n\n", "rows.csv", ["rows.csv: empty"]),
    "header only": ("text,label\n", "rows.csv", ["rows.csv: no rows"]),
    "one column": (
        "text\n" + "\n".join(PLAIN), "rows.csv", ["for continue use", "text is plain text"],
    ),
    "one class": (
        "text,label\n" + "".join(f"{text},a\n" for text in PLAIN), "rows.csv",
        ["rows.csv: only one class, 'a'", "add rows"],
    ),
    "no labels at all": (
        "text,label\n" + "".join(f"{text},\n" for text in PLAIN), "rows.csv",
        ["rows.csv: every cell of column label is empty", "fill it in"],
    ),
    "most labels missing": (
        "text,label\n" + "".join(f"{t},{'ab'[n] if n < 2 else ''}\n" for n, t in enumerate(PLAIN)),
        "rows.csv", ["38 of 40 rows have no label", "rows.csv:4", "fill them in"],
    ),
    "Latin-1": (
        GOOD.replace("parcel", "pärcel", 1).encode("latin-1"), "rows.csv",
        ["rows.csv:2: byte 0xE4", "UTF-8", "iconv"],
    ),
    "UTF-16": (GOOD.encode("utf-16"), "rows.csv", ["UTF-16", "iconv"]),
    "binary": (bytes(range(256)) * 9, "rows.csv", ["rows.csv", "binary"]),
    "too many cells": (GOOD + "a,b,c\n", "rows.csv", ["rows.csv:42: 3 cells", "2", "quotes"]),
    "too few cells": (GOOD + "lonely\n", "rows.csv", ["rows.csv:42: 1 cell", "comma"]),
    "an open quote": (GOOD + '"never closed,card\n', "rows.csv", ["rows.csv:42", "close it"]),
    "broken JSON": (
        "\n".join([*LINES[:20], '{"text": "x", ', *LINES[20:]]), "rows.jsonl",
        ["rows.jsonl:21: broken JSON"],
    ),
    "mixed shapes": (
        "\n".join([*LINES, TALK]), "rows.jsonl",
        ["rows.jsonl:1", "rows.jsonl:41", "messages", "one shape"],
    ),
    "a header twice": (GOOD.replace("text,", "label,", 1), "rows.csv", ["'label' is named twice"]),
    "hardly any rows": (
        "text,label\nhello,a\nbye,b\n", "rows.csv", ["data.train: only 2 different rows"],
    ),
    "no Parquet": (b"PAR1 no more", "rows.parquet", ["rows.parquet: damaged", "write it again"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used(tell, case):
    content, name, parts = DATA[case]
    line = tell(content, name=name)
    for part in parts:
        assert part in line, line


ODD = {
    "byte order mark": "\ufeff" + GOOD,
    "CRLF": GOOD.replace("\n", "\r\n"),
    "CR": GOOD.replace("\n", "\r"),
    "a million characters in a cell": GOOD + '"' + "word " * 200_000 + '",card\n',
    "a few labels missing": GOOD + "and this,\nand that,\n",
    "a null byte in a text": GOOD + "a\x00b,card\n",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_data_that_can_be_used(tell, house, case):
    tell(ODD[case], status=0)
    labels = json.loads((house / "run" / "model" / "tunewright.json").read_text())["labels"]
    assert labels == sorted(QUESTIONS)


SETTINGS = {
    "training.learning_rat=1": "did you mean learning_rate?",
    "trainng.seed=1": "did you mean training?",
    "training.lr=1": "here it is called training.learning_rate",
    "adapter.rank=8": "here it is called adapter.r",
    "training.batch_size=many": "training.batch_size is 'many'",
    "task=classfy": "'classify'",
    "data.columns.input=txt": "did you mean 'text'?",
    "data.group=who": "no column 'who'",
    "evaluation.metrics=[acuracy]": "accuracy",
    "evaluation.metrics=[bleu]": "is not for classify",
    "evaluation.baselines=[majorty]": "majority",
    "data.validation=gone.csv": "gone.csv: no such file",
    "training.device=gpu": "use auto, cpu",
    "base_model=./gone": "./gone: no such folder",
    "base_model=embedded:gone": "embedded:minilm",
    "base_model=": "base_model is ",
    "adapter.target_modules=[gone]": "no linear layer 'gone'",
    "adapter.method=prompt_tuning": "prompt_tuning is for decoders that write text",
    "adapter.method=lorra": "did you mean lora?",
    "adapter={method: ia3, r: 8}": "means nothing for method ia3; take it out",
    "adapter={method: lora, block_size: 4}": "is an option of oft, boft, not of lora; take it out",
    "adapter={method: vera, quantization: nf4}": "adapter.quantization means nothing for method",
    "adapter={method: freeze, train_layers: 9}": "has 2 layers, so give 1 to 2",
    "objective=dpo": "objective dpo",
    "training.canaries=3": "for tasks that write",
    "task=regress": "data.columns.output",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_cannot_be(tell, setting):
    more = [setting] if "target" not in setting else [setting, "adapter.method=lora"]
    line = tell(more=more)
    assert SETTINGS[setting] in line, line
    if "did you mean" in line and "training" in line:
        assert line.startswith(f"error: --set {setting.partition('=')[0]}: "), line


def change_config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def cut_weights(size):
    def change(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return change


MODELS = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "truncated": (cut_weights(-100), "truncated"),
    "cut in the header": (cut_weights(30), "truncated"),
    "empty": (cut_weights(0), "truncated"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "convert to safetensors",
    ),
    "unknown architecture": (change_config(model_type="brt"), "did you mean bert?"),
    "another size": (change_config(hidden_size=64), "do not belong together"),
    "impossible heads": (change_config(num_attention_heads=5), "not a multiple"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: missing"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")], "copy the model's tokenizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_used(tell, house, bert, case):
    change, part = MODELS[case]
    bad = shutil.copytree(bert, house / "bad")
    change(bad)
    line = tell(base="bad")
    assert part in line, line
    assert "bad" in line


def test_places_that_cannot_be_written(tell, house):
    (house / "file").write_text("mine")
    assert "file/run: cannot write here" in tell(run_dir="file/run")
    assert "is a file" in tell(run_dir="file")
    assert (house / "file").read_text() == "mine"
    assert "cannot write here" in tell(run_dir="x" * 300)
    if os.path.isdir("/proc/self"):
        assert "cannot write here" in tell(run_dir="/proc/run")


def test_nothing_is_lost_of_what_was_there(tell, house):
    (house / "mine").mkdir()
    (house / "mine" / "notes.txt").write_text("mine")
    assert "mine: is not empty" in tell(run_dir="mine")
    assert [path.name for path in (house / "mine").iterdir()] == ["notes.txt"]
    tell(status=0)
    before = {path: path.read_bytes() for path in (house / "run").rglob("*") if path.is_file()}
    assert "already holds a run" in tell("")
    tell("", more=["training.seed=3"])
    assert before == {path: path.read_bytes() for path in before}


def test_a_mended_recipe_may_start_in_the_same_place(tell, house):
    tell("text,label\n")
    tell(more=["evaluation.baselines=[majorty]"])
    tell(more=["base_model=./gone"])
    tell(status=1, more=["budget.memory_gb=0.000001"])
    tell(status=0)
    assert (house / "run" / "report.json").exists()


@pytest.mark.parametrize("words", [("evaluate", "--data", "rows.csv"), ("chat", "-m", "hello")])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_base_without_a_head_gives_no_answers(house, bert, capsys, words, as_json):
    (house / "rows.csv").write_text(GOOD)
    command, *rest = words
    assert run([command, str(bert), *rest, *["--json"] * as_json]) == 2
    told = capsys.readouterr()
    line = told.err.splitlines()[-1]
    assert line.startswith(f"error: {bert}: an encoder without a head gives no answers")
    assert "tunewright train" in line
    if as_json:
        assert json.loads(told.out)["error"]["exit_status"] == 2


def test_a_file_of_mixed_shapes_is_not_judged_in_part(tell, house, capsys):
    tell(status=0)
    (house / "mixed.jsonl").write_text("\n".join([*LINES, TALK]))
    assert run(["evaluate", "run", "--data", "mixed.jsonl"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: mixed.jsonl:41: a row of shape (messages)")
    assert "keep one shape" in line


@pytest.mark.parametrize("text", [b"task: classify # caf\xe9\n", b"task: classify\x07\n"])
def test_a_recipe_that_is_no_utf8_text_is_told_to_become_it(text):
    with pytest.raises(RecipeError, match="recipe.yaml: not valid YAML.* plain UTF-8") as caught:
        parse_recipe(text, "recipe.yaml")
    assert "\n" not in str(caught.value)
