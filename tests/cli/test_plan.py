"""`tunewright plan`: verdict, figures, exit status; without weights, without torch."""

import json
import subprocess
import sys

import pytest

LLAMA_405B = {
    "model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248,
    "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def big(tmp_path):
    """A recipe for a 405B model of which only config.json is here, with 40 rows of text."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text(json.dumps(LLAMA_405B))
    rows = [{"prompt": f"word {i} " * 30, "completion": f"answer {i} " * 20} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: generate\nbase_model: big\ndata: {train: rows.jsonl}\n")
    return recipe


def test_no_is_exit_1_with_what_to_change(tunewright, big):
    ended = tunewright("plan", big, "--device", "H100-80GB", "--json")
    assert ended.status == 1
    document = ended.document
    assert document["verdict"] == "NO"
    assert document["memory"]["peak_bytes"] > 800e9
    assert document["changes"] and all(c["overrides"] for c in document["changes"])
    assert sum(document["memory"]["items"].values()) == document["memory"]["peak_bytes"]


def test_enough_devices_fit(tunewright, big):
    ended = tunewright("plan", big, "--device", "32x H100", "--json")
    assert ended.status == 0 and ended.document["verdict"] == "FIT"
    assert ended.document["usd"] is None  # two sources disagree on that price
    assert any("disagree" in note for note in ended.document["notes"])


def test_own_price_gives_dollars(tunewright, big, tmp_path):
    (tmp_path / "prices.yaml").write_text("device_hour: {H100-80GB: 2.0}\n")
    ended = tunewright(
        "plan", big, "--device", "32x H100", "--prices", tmp_path / "prices.yaml", "--json"
    )
    hours = ended.document["seconds"]["total"] / 3600
    assert ended.document["usd"] == pytest.approx(hours * 2.0 * 32)


def test_a_card_stands_for_the_data(tunewright, big, tmp_path):
    card = {
        "task": "generate", "labels": [],
        "splits": {
            "train": {
                "rows": 10, "tokens": {"max": 900},
                "token_histogram": {"edges": [0, 400, 800], "counts": [6, 4]},
                "output_chars": {"mean": 360.0, "max": 400},
            },
            "validation": {"rows": 2}, "test": {"rows": 2},
        },
    }  # fmt: skip
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "rows.jsonl").unlink()
    recompute = ("--set", "training.activation_checkpointing=on")
    ended = tunewright(
        "plan", big, "--device", "32x H100", "--card", tmp_path, "--json", *recompute
    )
    assert ended.status == 0
    assert ended.document["work"]["longest_row_tokens"] == 900


def test_this_machine_in_words(tunewright, tmp_path):
    (tmp_path / "t.yaml").write_text("data: {train: embedded:support-tickets}\n")
    ended = tunewright("plan", "t.yaml")
    assert ended.status == 0
    for word in ("FIT", "weights", "optimiser moments", "activations", "one checkpoint", "kWh"):
        assert word in ended.out
    ended = tunewright("plan", "t.yaml", "--set", "budget.memory_gb=0.2")
    assert ended.status == 1 and "What would need less" in ended.out


@pytest.mark.parametrize(
    "arguments, word",
    [
        (("--device", "abacus"), "no such device"),
        (("--card", "nothing.json"), "missing"),
        (("--prices", "nothing.yaml"), "cannot be read"),
        (("--set", "base_model=nowhere/"), "no such folder"),
    ],
)
def test_mistakes_are_one_line(tunewright, big, arguments, word):
    ended = tunewright("plan", big, *arguments)
    assert ended.status == 2 and word in ended.err and "Traceback" not in ended.err


def test_a_named_device_needs_no_torch(big):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tunewright.cli.main import run\n"
        f"sys.exit(run(['plan', {str(big)!r}, '--device', '32x H100', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "FIT"


@pytest.mark.slow
def test_a_probe_measures_real_steps(tunewright, tmp_path):
    (tmp_path / "t.yaml").write_text("data: {train: embedded:support-tickets}\n")
    small = ("--set", "data.max_rows=64", "--set", "training.batch_size=8")
    ended = tunewright("plan", "t.yaml", "--probe", "--json", *small)
    assert ended.status == 0, ended.err
    document = ended.document
    assert document["seconds"]["probed"] and document["seconds"]["total"] > 0
    memory = document["memory"]
    assert memory["low_bytes"] < memory["peak_bytes"] < memory["high_bytes"]
    assert memory["peak_bytes"] > 3e8  # weights, masters and moments of 23M parameters at least
    ended = tunewright("plan", "t.yaml", "--probe", "--device", "L4")
    assert ended.status == 2 and "this machine only" in ended.err


def test_a_business_section_gives_the_short_form_of_benefit(tunewright, big, tmp_path):
    (tmp_path / "prices.yaml").write_text("device_hour: {H100-80GB: 2.0}\n")
    asked = ("plan", big, "--device", "32x H100", "--prices", tmp_path / "prices.yaml")
    business = ("--set", "business={requests_per_month: 1000, cost_per_error_usd: 2}")
    ended = tunewright(*asked, *business, "--json")
    worth = ended.document["benefit"]
    assert worth["costs"] == [{"what": "training", "usd": ended.document["usd"]}]
    assert worth["needed_gain"] > 0
    assert "errors saved" in tunewright(*asked, *business).out
    assert tunewright(*asked, "--json").document["benefit"] is None
