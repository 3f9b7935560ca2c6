"""A real server on a free port of loopback, with tiny models behind it."""

import json
import threading
import time

import pytest
import uvicorn
from tests.model_zoo import make_tiny

from tunewright.api.app import make_app
from tunewright.config import make_recipe
from tunewright.hosting import Hosting, find_served
from tunewright.journal import silence
from tunewright.pipeline import train

TOPICS = ("delivery", "card", "account")


def rows(task):
    for number in range(48):
        topic = TOPICS[number % 3]
        text = f"question {number} about my {topic}"
        if task == "classify":
            yield {"text": text, "label": topic}
        else:
            answer = {"role": "assistant", "content": f"this is about the {topic}"}
            yield {"messages": [{"role": "user", "content": text}, answer]}


def tune(folder, name, base, task, method, seed=17):
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(task)))
    recipe = make_recipe(
        {
            "task": task,
            "base_model": str(base),
            "data": {"train": str(data), "validation": 0.2, "test": 0.2},
            "adapter": {"method": method},
            "training": {
                "max_steps": 4, "num_threads": 1, "precision": "fp32", "batch_size": 8,
                "learning_rate": 0.02 if method == "lora" else 0.002, "max_length": 96,
                "seed": seed,
            },
            "evaluation": {"baselines": [], "max_new_tokens": 12},
        }
    )  # fmt: skip
    train(recipe, folder / name, silence())
    return str(folder / name)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """Run folders: two adapters of one base, and a classifier; and the base itself."""
    folder = tmp_path_factory.mktemp("served")
    llama, bert = make_tiny("llama", folder / "llama"), make_tiny("bert", folder / "bert")
    return {
        "one": tune(folder, "one", llama, "chat", "lora"),
        "two": tune(folder, "two", llama, "chat", "lora", seed=3),
        "labels": tune(folder, "labels", bert, "classify", "full"),
        "llama": str(llama),
    }


class Live:
    """A server in a thread, until `stop`."""

    def __init__(self, app):
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(scope="session")
def live(tuned):
    hosting = Hosting(find_served(tuned.values()))
    server = Live(make_app(hosting))
    yield server
    server.stop()
