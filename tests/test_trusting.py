"""`threshold`: from a run to a threshold on the command line, and what the server says with it."""

import json

import pytest
from tests.model_zoo import make_tiny

from tunewright.cli.main import run
from tunewright.store import RunFolder

THINGS = ("parcel", "shipment", "package", "delivery")
RECIPE = """\
task: classify
base_model: {base}
data: {{train: rows.csv, validation: 0.4, test: 0.2}}
training: {{max_steps: 40, learning_rate: 5.0e-3, num_threads: 1}}
evaluation: {{baselines: [majority]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of two labels, one of them rare and plain to see."""
    folder = tmp_path_factory.mktemp("trust")
    base = make_tiny("bert", folder / "base")
    lines = [f"where is the {THINGS[n % 4]} number {n} of today,ham" for n in range(360)]
    lines += [f"win a prize now {n} call,spam" for n in range(60)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (folder / "strange.csv").write_text(
        "text,label\n" + "".join(f"zz qq {n},odd\n" for n in range(30))
    )
    (folder / "recipe.yaml").write_text(RECIPE.format(base=base))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "recipe.yaml", "--run-dir", "runs/first"]) == 0
        yield folder


@pytest.fixture
def ask(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*words, status=0):
        capsys.readouterr()
        assert run(["threshold", "runs/first", *words, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    return call


def test_hand_over_with_its_shares(ask, place):
    found = ask("--precision", "0.9", "--unknown", "strange.csv")
    assert found["kind"] == "hand over" and 0 < found["value"] <= 1
    shares = found["judged"]
    assert shares["right of answered"]["value"] >= 0.8
    low, high = shares["answered"]["ci95"]
    assert low <= shares["answered"]["value"] <= high
    assert found["unknown"]["n"] == 30
    assert (
        json.loads(RunFolder(place / "runs/first").threshold.read_text())["value"] == found["value"]
    )


def test_alarms_for_the_rarer_label(ask):
    found = ask("--false-alarms", "0.05")
    assert found["positive"] == "spam"
    assert found["judged"]["false alarms"]["value"] <= 0.1
    assert ask("--false-alarms", "0.0001", status=1)["value"] is None


def test_costs_beside_doing_nothing(ask):
    costs = ask("--cost-miss", "100", "--cost-false-alarm", "1", "--rate", "0.01")["costs"]
    assert costs["per_request"] <= min(costs["never"], costs["always"]) + 1e-9
    assert costs["never"] == pytest.approx(1.0) and costs["always"] == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of"),
        (["--precision", "0.9", "--false-alarms", "0.1"], "give one of"),
        (["--cost-miss", "3"], "give both"),
        (["--false-alarms", "0.1", "--positive", "eggs"], "two labels"),
        (["--precision", "0.9", "--unknown", "nowhere.csv"], "no such file"),
    ],
)
def test_mistakes_are_told(ask, words, said):
    assert said in ask(*words, status=2)["error"]["message"]


def test_the_server_says_what_to_do_with_an_answer(ask, place):
    from fastapi.testclient import TestClient

    from tunewright.api.app import make_app
    from tunewright.hosting import Hosting, find_served

    value = ask("--false-alarms", "0.05")["value"]
    with TestClient(
        make_app(Hosting(find_served(["runs/first"]))), base_url="http://localhost"
    ) as client:
        asked = {"model": "first", "input": ["win a prize now 7 call", "where is the parcel"]}
        answers = client.post("/v1/classify", json=asked).json()["data"]
    assert [row["alarm"] for row in answers] == [row["scores"]["spam"] >= value for row in answers]
