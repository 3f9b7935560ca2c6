"""Every command that the documentation shows is run, in a folder made for it.

A line that cannot be run here stands in NOT_RUN with the reason; a line of another program in
OTHERS. The quick test holds the books, so that no line is in neither; the slow one runs them.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.docs.test_docs import BLOCK, INLINE, PAGES, TUTORIALS
from tests.model_zoo import make_tiny

MAIN = "from tunewright.cli.main import main; main()"
PLACEHOLDERS = (
    "RUN",
    "FORM",
    "DATA",
    "FILE",
    "ADAPTER",
    "COMMAND",
    "NAME",
    "[MODEL]...",
    "DIR",
    "|",
)
NOT_RUN = {
    "tunewright --install-completion": "writes into the start-up file of a shell",
    "tunewright choose recipe.yaml --base catalog": "network: the catalog's models",
    "tunewright choose recipe.yaml --base embedded:minilm --base ../models": "minutes; tests/test_choosing.py",
    "tunewright quickstart": "minutes; bench/results/quickstart.json, and make run",
    "tunewright pilot recipe.yaml": "minutes; tests/test_piloting.py",
    "tunewright pilot recipe.yaml --thorough": "minutes; tests/test_piloting.py",
    "tunewright search recipe.yaml": "minutes; tests/test_searching.py",
    "tunewright migrate openai --out moved": "key and network; tests/providers/test_migrating.py",
    "tunewright train moved/recipes/ftjob-abc123.yaml": "key; tests/providers/test_migrating.py",
    "tunewright plan hosted.yaml": "key; tests/providers against an emulator",
    "tunewright train hosted.yaml": "key; tests/providers against an emulator",
    "tunewright train hosted.yaml --run-dir runs/hosted-... --resume": "key; tests/providers",
    "tunewright train hosted.yaml --run-dir runs/hosted-... --cancel": "key; tests/providers",
    "tunewright train recipe.yaml --nproc 8": "eight GPUs; tests/train/test_parallel.py",
    "tunewright train recipe.yaml --nproc 8 --hosts a=10.0.0.1,b=10.0.0.2": "two hosts; tests/cluster",
    "tunewright plan recipes/regex.yaml --set base_model=DIR": "a placeholder; tests/cli/test_plan.py",
    "tunewright export runs/x --to gguf": "causal bases; tests/story/test_export.py",
    "tunewright release rollback support": "two versions in production; tests/releases/test_board.py",
    "tunewright serve runs/tickets runs/writer": "two models; tests/api",
    "tunewright auto support --traffic traffic/ --set retune.retune_usd=20 "
    "--set business.cost_per_error_usd=0.5": "goes on until it is stopped; tests/test_unattended.py",
}  # fmt: skip
HOSTED = "runs/hosted"
"""Runs that were tuned at a provider: a key is needed; tests/providers plays them at emulators."""
OTHERS = {
    "make run": "CI runs make; bench/results/quickstart.json",
    "python3 -m venv .venv": "tests/story/test_wheel.py makes one",
    ".venv/bin/pip install -c constraints.txt -e .": "tests/story/test_wheel.py",
    "git clone https://github.com/tunewright/tunewright && cd tunewright": "network",
    "docker build -t tunewright .": "a docker daemon; tests/test_supply.py reads the file",
    "docker run --rm -v tuned:/data tunewright keys create me --scope admin": "a docker daemon",
    "docker run -d -p 8000:8000 -v tuned:/data tunewright": "a docker daemon",
    "OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python my_client.py":
        "a client of one's own; tests/api",
    "torchrun --nproc-per-node 8 -m tunewright train recipe.yaml --run-dir runs/x": "eight GPUs",
}  # fmt: skip
NO = {
    # The answer may be no on rows as few as these: exit status 1, and that is what is documented.
    "release", "retune", "benefit", "threshold", "check", "plan", "doctor", "compare", "report",
}  # fmt: skip
RECIPE = """\
task: classify
base_model: {base}
data: {{train: tickets.csv, validation: 0.2, test: 0.2}}
adapter: {{method: lora, r: 2}}
training: {{max_steps: 4, num_threads: 1}}
evaluation: {{baselines: [majority, tfidf_linear]}}
business: {{requests_per_month: 1000, cost_per_error_usd: 1.0}}
"""
AXOLOTL = (
    "base_model: a/b\ndatasets: [{path: rows.jsonl, type: alpaca}]\nadapter: lora\nlora_r: 8\n"
)
LLAMA = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: x\nlora_rank: 8\n"


def plain(line):
    """A shown line without comment and extra space."""
    return " ".join(shlex.join(shlex.split(line, comments=True)).split())


def shown(page):
    """Whole lines of a page that can be typed, and whether they are tunewright's."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for language, block in BLOCK.findall(text)
             if language in ("", "bash") for line in block.splitlines()]  # fmt: skip
    ours = [line for line in lines if line.startswith("tunewright ")]
    ours += INLINE.findall(BLOCK.sub("", text).replace("\n", " "))
    starts = ("make ", "git ", "docker ", "python3 ", ".venv/", "OPENAI_", "torchrun ", "pip ")
    others = [line.partition("   #")[0].strip() for line in lines if line.startswith(starts)]
    return [plain(line.replace("'", "").replace("|", " | ")) if "|" in line else plain(line)
            for line in ours], others  # fmt: skip


def is_named_only(line):
    """A command named in passing, or with a placeholder: nothing that can be typed as it stands."""
    words = shlex.split(line)
    nested = words[1:2] in (["release"], ["keys"], ["jobs"])
    return len(words) <= (3 if nested else 2) and words[1:] not in (
        ["doctor"], ["runs"], ["release", "list"], ["keys", "list"], ["quickstart"]
    ) or any(word in PLACEHOLDERS or word.startswith("DATA") for word in words)  # fmt: skip


def runnable():
    """Lines to run, in the order of pages, each once; tutorials are played by tests/story."""
    found = {}
    for page in PAGES:
        if page.parent != TUTORIALS:
            for line in shown(page)[0]:
                if not is_named_only(line) and line not in NOT_RUN and HOSTED not in line:
                    found.setdefault(line, page.name)
    return found


def test_every_line_is_run_or_says_why_not():
    ours = {line for page in PAGES for line in shown(page)[0]}
    others = {line for page in PAGES for line in shown(page)[1]}
    assert others <= OTHERS.keys(), others - OTHERS.keys()
    unused = [line for line in NOT_RUN if line not in ours]
    assert not unused, unused
    assert len(runnable()) >= 45
    assert len(NOT_RUN) <= 20


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Everything that the pages speak of: rows, recipe, runs, logs, configs of peers."""
    folder = tmp_path_factory.mktemp("docs")
    base = make_tiny("bert", folder / "base")
    topics = {"delivery": "where is my parcel", "card": "the card was refused",
              "account": "please close my account"}  # fmt: skip
    rows = [(f"{text} {'again ' * (n % 4)}number {n}", label)
            for n in range(300) for label, text in topics.items()]  # fmt: skip
    rows.append(rows[0])  # something to drop, and to bring back
    table = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
    for name in ("tickets.csv", "data.csv", "october.csv", "new.csv", "other.csv"):
        (folder / name).write_text(table)
    two = [(f"pay {n} now", "fraud" if n % 6 == 0 else "fine") for n in range(200)]
    (folder / "two.csv").write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in two))
    (folder / "inbox.csv").write_text("text\n" + "".join(f"{text} x\n" for text, _ in rows))
    log = [{"id": f"r{n}", "time_s": float(n), "input": f"{text} please"}
           for n, (text, _) in enumerate(rows)]  # fmt: skip
    for name in ("requests", "traffic", "last-month"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / "labelled.jsonl").write_text("".join(
        json.dumps({**line, "label": label}) + "\n"
        for line, (_, label) in zip(log, rows, strict=True)
    ))  # fmt: skip
    (folder / "test.jsonl").write_text("".join(
        json.dumps({"text": text, "label": label}) + "\n" for text, label in rows[:40]
    ))  # fmt: skip
    (folder / "recipe.yaml").write_text(RECIPE.format(base=base))
    (folder / "fraud.yaml").write_text(RECIPE.format(base=base).replace("tickets", "two"))
    (folder / "prices.yaml").write_text("device_hour: {this: 0.1}\n")
    (folder / "axolotl.yaml").write_text(AXOLOTL)
    (folder / "llama3_lora_sft.yaml").write_text(LLAMA)
    for recipe, name in (("recipe", "first"), ("fraud", "fraud")):
        done = command(folder, ["train", f"{recipe}.yaml", "--run-dir", f"runs/{name}"])
        assert done.returncode == 0, done.stderr
    for name in ("second", "tickets", "tickets-2", "x"):
        shutil.copytree(folder / "runs" / "first", folder / "runs" / name)
    return folder


def command(folder, words, *, timeout=250):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words], cwd=folder, capture_output=True, text=True,
        timeout=timeout, check=False, input="q\n",
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def prepare(words, folder):
    """What a line takes for granted: nothing in the way, and what earlier lines left."""
    if words[0] == "train" and "--run-dir" in words and "--resume" not in words:
        shutil.rmtree(folder / words[words.index("--run-dir") + 1], ignore_errors=True)
    if words[0] in ("init", "import"):
        (folder / "recipe.yaml").unlink(missing_ok=True)
    if "--undo" in words:
        command(folder, ["check", "tickets.csv", "--write", "clean/tickets.csv"])
    elif "--write" in words:
        shutil.rmtree(folder / "clean", ignore_errors=True)
    if (
        words[:2] in (["release", "promote"], ["release", "rollback"])
        and "runs/tickets" not in words
    ):
        command(folder, ["release", "promote", "runs/tickets", "--name", "support"])
        if "runs/tickets-2" not in words:
            command(folder, ["release", "promote", "runs/tickets-2", "--name", "support",
                             "--to", "canary", "--share", "0.05"])  # fmt: skip
    if words[:2] == ["release", "rollback"]:
        command(folder, ["release", "promote", "support@2"])


def serve_and_stop(folder, words):
    """Start a server, wait for its address, stop it; exit status and what it said."""
    port = [] if "--port" in words else ["--port", "0"]
    if "runs/first" not in words and "runs/x" not in words and "--base" not in words:
        words = [*words, "runs/first"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words, *port, "--no-worker"], cwd=folder,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said, ends = "", time.monotonic() + 120
    for line in process.stderr:
        said += line
        if "OPENAI_BASE_URL" in line or time.monotonic() > ends:
            break
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("line", list(runnable()))
def test_a_line_of_the_documentation_runs(line, workplace, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder, copy_function=os.link)
    for name in ("recipe.yaml", "tickets.csv"):  # links: what is changed in place must be a copy
        text = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(text)
    line = line.partition(" '>' ")[0]
    words = shlex.split(line)[1:]
    prepare(words, folder)
    if words[0] == "serve":
        status, said = serve_and_stop(folder, words)
        assert status in (0, 3) and "OPENAI_BASE_URL" in said, said
        return
    if words[0] == "pilot":
        words += ["--set", "training.max_steps=2"]
    done = command(folder, words)
    allowed = (0, 1) if words[0] in NO else (0,)
    assert done.returncode in allowed, f"{line}: {done.stderr[-1500:]}"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_of_the_documentation_runs(workplace, tmp_path, monkeypatch):
    """Every block of Python, as it stands, with the names that it takes for granted."""
    import pandas

    blocks = [text for page in PAGES
              for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
              if language == "python"]  # fmt: skip
    assert blocks
    monkeypatch.chdir(tmp_path)
    frame = pandas.read_csv(workplace / "tickets.csv")
    for text in blocks:
        names = {"frame": frame, "new_rows": frame.head(30)}
        exec(compile(shorter(text, workplace / "base"), "docs", "exec"), names)


def shorter(text, base):
    """The same calls on a tiny base for few steps; nothing else of the text is changed."""
    small = f', base_model="{base}"'
    text = text.replace('task="classify"', f'task="classify"{small}')
    return text.replace('settings={"training.num_epochs": 3}', 'settings={"training.max_steps": 4}')


def test_every_block_has_a_language_that_some_test_reads():
    """yaml is parsed, python run, bare and bash blocks are commands or output, text is a drawing."""
    for page in PAGES:
        for language, _ in BLOCK.findall(Path(page).read_text(encoding="utf-8")):
            assert language in ("", "bash", "yaml", "python", "text"), f"{page.name}: {language}"
