"""Real configs of other tools become recipes, and no key of them is lost in silence.

configs/*.json holds the keys and values of the tools' own examples, each with its source.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tunewright.config import make_recipe, parse_recipe
from tunewright.errors import RecipeError
from tunewright.importers.draft import Draft
from tunewright.importers.table import IMPORTERS, import_config, write_imported

CONFIGS = Path(__file__).parent / "configs"
LISTS = ("datasets", "pretraining_dataset", "test_datasets", "dataset", "eval_dataset")


def configs():
    for path in sorted(CONFIGS.glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            yield pytest.param(path.stem, entry, id=entry["source"].replace("/", ":"))


ALL = list(configs())


def write(tool, entry, folder):
    if tool == "trl":
        path = folder / "train.sh"
        path.write_text(entry["words"].replace(" --", " \\\n    --") + "\n", encoding="utf-8")
    else:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(entry["values"], sort_keys=False), encoding="utf-8")
    return path


def leaves(values, prefix=""):
    """Dotted keys of everything a config says."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{key}.")
        else:
            yield key


def is_accounted(key, fates):
    """A key stands among the fates, or its parts, or the section that holds it."""
    return any(
        key == fate or fate.startswith((f"{key}[", f"{key}.")) or key.startswith(f"{fate}.")
        for fate in fates
    )


def test_there_are_enough_of_them():
    tools = {parameter.values[0] for parameter in ALL}
    assert len(ALL) >= 30 and len(tools) >= 6


@pytest.mark.parametrize(("tool", "entry"), ALL)
def test_config_becomes_a_recipe(tool, entry, tmp_path):
    path = write(tool, entry, tmp_path)
    imported = import_config(path)
    assert imported.tool == tool
    fates = [fate.key for fate in imported.fates]
    values = entry.get("values") or words_of(entry["words"])
    lost = [key for key in leaves(values) if not is_accounted(key, fates)]
    assert not lost
    for fate in imported.fates:
        assert fate.outcome != "not carried" or fate.note, fate
        assert fate.outcome != "mapped" or fate.to, fate
    text = write_imported(imported, path.name)
    assert parse_recipe(text, "recipe.yaml") == imported.recipe
    for fate in imported.left:
        assert fate.key in text


def words_of(text):
    return {w[2:].split("=")[0]: True for w in text.split() if w.startswith("--")}


@pytest.mark.parametrize(("tool", "entry"), ALL)
def test_no_key_falls_to_the_general_reason(tool, entry, tmp_path):
    """Keys of the tools' own examples are all known by name."""
    imported = import_config(write(tool, entry, tmp_path))
    assert not [f.key for f in imported.fates if f.note == "no counterpart here"]


def imported_values(tool, values):
    draft = Draft()
    IMPORTERS[tool](values, draft)
    return draft


def test_axolotl_keys():
    draft = imported_values(
        "axolotl",
        {
            "base_model": "a/b", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8,
            "lora_alpha": 16, "lora_target_linear": True, "sequence_len": 512,
            "micro_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": "2e-4",
            "num_epochs": 3, "lr_scheduler": "cosine", "warmup_steps": 10, "max_steps": 100,
            "datasets": [{"path": "x/y", "type": "alpaca"}, {"path": "z.jsonl"}],
            "val_set_size": 0.05, "wandb_project": "p", "lora_aplha": 3,
        },
    )  # fmt: skip
    assert draft.values == {
        "base_model": "a/b", "adapter.method": "qlora", "adapter.r": 8, "adapter.alpha": 16.0,
        "adapter.target_modules": "all-linear", "training.max_length": 512,
        "training.batch_size": 4, "training.gradient_accumulation_steps": 2,
        "training.learning_rate": 2e-4, "training.num_epochs": 3.0,
        "training.lr_scheduler": "cosine", "training.warmup_ratio": 0.1,
        "training.max_steps": 100, "data.train": "x/y", "data.validation": 0.05,
        "training.trackers": ["wandb"],
    }  # fmt: skip
    left = {fate.key: fate.note for fate in draft.fates if fate.outcome == "not carried"}
    assert left["lora_aplha"] == "no counterpart here"
    assert "one source" in left["datasets[1].path"]


def test_without_adapter_it_is_full_tuning():
    assert imported_values("axolotl", {"base_model": "a/b"}).values["adapter.method"] == "full"
    assert imported_values("trl", {"learning_rate": 1e-5}).values["adapter.method"] == "full"


def test_llamafactory_reads_its_table_of_data(tmp_path):
    info = {"mine": {"file_name": "rows.json", "columns": {"prompt": "q", "response": "a"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    path = tmp_path / "sft.yaml"
    path.write_text("stage: sft\ndataset: mine\nfinetuning_type: lora\n", encoding="utf-8")
    recipe = import_config(path).recipe
    assert recipe.data.train == "rows.json"
    assert (recipe.data.columns.input, recipe.data.columns.output) == ("q", "a")


def test_trl_command_line(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(
        "#!/bin/bash\nset -e\ntrl sft --model_name_or_path a/b \\\n"
        "  --dataset_name=x/y --learning_rate 2e-5 --use_peft --lora_r 4 --report_to none\n",
        encoding="utf-8",
    )
    recipe = import_config(path).recipe
    assert (recipe.base_model, recipe.data.train) == ("a/b", "x/y")
    assert (recipe.adapter.method, recipe.adapter.r) == ("lora", 4)
    assert recipe.training.learning_rate == 2e-5


def test_openai_job(tmp_path):
    job = {
        "model": "gpt-4o-mini-2024-07-18", "training_file": "rows.jsonl", "seed": 3,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    }  # fmt: skip
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    imported = import_config(path)
    assert imported.tool == "openai"
    assert imported.recipe.data.train == "rows.jsonl"
    assert imported.recipe.training.num_epochs == 2
    model = next(fate for fate in imported.fates if fate.key == "model")
    assert "not public" in model.note


def test_values_that_no_recipe_can_hold_are_listed(tmp_path):
    path = tmp_path / "lora.yml"
    path.write_text("base_model: a/b\nadapter: lora\nsequence_len: 64\nlora_dropout: 7\n")
    imported = import_config(path)
    assert imported.recipe.adapter.dropout == 0.0
    fate = next(fate for fate in imported.fates if fate.key == "lora_dropout")
    assert fate.outcome == "not carried" and "less than 1" in fate.note


def test_preference_methods_are_carried_over(tmp_path):
    def read(tool, name):
        entries = json.loads((CONFIGS / f"{tool}.json").read_text())
        entry = next(item for item in entries if item["source"].endswith(name))
        return import_config(write(tool, entry, tmp_path)).recipe

    kto = read("axolotl", "qlora-1b-kto.yaml")
    assert (kto.objective, kto.adapter.method, kto.preference.beta) == ("kto", "qlora", 0.5)
    assert kto.preference.desirable_weight == 0.2
    assert read("llamafactory", "qwen3_lora_dpo.yaml").objective == "dpo"
    assert read("trl", "orpo.py").objective == "orpo"
    assert read("torchtune", "8B_lora_dpo.yaml").objective == "dpo"


@pytest.mark.parametrize(
    ("tool", "values"),
    [
        ("axolotl", {"adapter": "qlora", "peft_use_dora": True, "loraplus_lr_ratio": 8}),
        ("trl", {"use_peft": True, "load_in_4bit": True, "use_dora": True}),
        ("llamafactory", {"finetuning_type": "lora", "quantization_bit": 4, "use_dora": True}),
        ("unsloth", {"training": {"load_in_4bit": True}, "lora": {"use_dora": True}}),
        ("torchtune", {"model": {"_component_": "torchtune.models.lora_x", "quantize_base": True,
                                 "use_dora": True}}),
    ],
)  # fmt: skip
def test_a_kin_of_lora_stays_on_four_bits(tool, values):
    draft = imported_values(tool, values)
    assert draft.values["adapter.method"] == "qlora" and draft.values["adapter.dora"] is True
    assert make_recipe(draft.nested()).adapter.options.dora
    assert not [fate for fate in draft.fates if fate.outcome == "not carried"]


def test_what_cannot_be_switched_off_is_listed():
    def left(tool, values):
        draft = imported_values(tool, values)
        return {fate.key: fate.note for fate in draft.fates if fate.outcome == "not carried"}

    assert left("torchtune", {"shuffle": False})["shuffle"].startswith("always on here: rows come")
    assert (
        "exclude_modules"
        in left("unsloth", {"lora": {"finetune_mlp_modules": False}})["lora.finetune_mlp_modules"]
    )
    assert left("axolotl", {"no_such_switch": False}) == {"no_such_switch": "no counterpart here"}
    assert not left("axolotl", {"flash_attention": False, "remove_unused_columns": False})


def test_graders_of_a_hosted_job_are_listed():
    job = {"training_file": "r.jsonl", "method": {"type": "reinforcement", "reinforcement": {
        "grader": {"type": "string_check", "name": "x"}}}}  # fmt: skip
    fates = {fate.key: fate for fate in imported_values("openai", job).fates}
    for key in ("method.type", "method.reinforcement"):
        assert fates[key].outcome == "not carried" and "docs/objectives.md" in fates[key].note


def test_secrets_are_never_shown():
    draft = imported_values("autotrain", {"task": "llm-sft", "hub": {"token": "hf_abc"}})
    assert "hf_abc" not in repr(draft.fates)


def test_full_tuning_leaves_out_numbers_of_a_lora():
    values = {"model": "a/b", "training": {"training_type": "full"}, "lora": {"lora_r": 64}}
    draft = imported_values("unsloth", values)
    assert "adapter.r" not in draft.values
    assert [f.outcome for f in draft.fates if f.key == "lora.lora_r"] == ["not carried"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just words", "no TRL command"),
        ("- a\n- b\n", "a config is a table of keys"),
        ("colour: red\n", "no tool's config is known by these keys"),
        ("a: [1\n", "not valid YAML"),
        ("a: &x [1]\nb: [" + ", ".join(["*x"] * 60) + "]\n", "too many aliases"),
    ],
)
def test_bad_configs_end_in_one_line(text, says, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=says) as caught:
        import_config(path)
    assert "\n" not in str(caught.value)


def test_a_short_axolotl_config_is_known_by_its_list_of_datasets(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("base_model: a/b\ndatasets: [{path: rows.jsonl, type: alpaca}]\nlora_r: 8\n")
    assert import_config(path).tool == "axolotl"


def test_missing_binary_and_unknown_tool(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        import_config(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="not text in UTF-8"):
        import_config(tmp_path / "x.yaml")
    with pytest.raises(RecipeError, match="--from keras: unknown"):
        import_config(tmp_path / "x.yaml", "keras")


def test_command_writes_and_never_overwrites(tmp_path):
    (tmp_path / "lora.yml").write_text(
        "base_model: a/b\nadapter: lora\nsequence_len: 64\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "tunewright.cli.main"]
    code = "from tunewright.cli.main import main; main()"
    command = [sys.executable, "-c", code, "import", "lora.yml"]

    def run(*more):
        return subprocess.run(
            [*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run("--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["tool"] == "axolotl" and document["values"]["training"]["max_length"] == 64
    again = run()
    assert again.returncode == 2 and "exists already" in again.stderr
    assert run("--force").returncode == 0
