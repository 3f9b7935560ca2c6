"""A server's folder with a tiny base, an uploaded file and jobs on the board."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from postgres_server import store_url
from tunewright.database.engine import open_database
from tunewright.jobs.board import Wish, add_job
from tunewright.jobs.files import Incoming, add_file
from tunewright.settings import ServerFolder, ServerSettings

TOPICS = ("delivery", "card", "account")
RECIPE = {
    "training.num_threads": 1, "training.precision": "fp32", "training.max_length": 96,
    "evaluation.baselines": [], "evaluation.max_new_tokens": 8,
}  # fmt: skip


def chat_rows(num=32):
    rows = []
    for number in range(num):
        topic = TOPICS[number % 3]
        question = {"role": "user", "content": f"question {number} about my {topic}"}
        answer = {"role": "assistant", "content": f"this is about the {topic}"}
        rows.append({"messages": [question, answer]})
    return rows


def preference_rows(num=32):
    for number in range(num):
        topic = TOPICS[number % 3]
        yield {
            "input": {"messages": [{"role": "user", "content": f"{number}: my {topic}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"about {topic}"}],
            "non_preferred_output": [{"role": "assistant", "content": "no idea at all"}],
        }


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def settings_for(base, **jobs):
    plain = {"recipe": RECIPE, "lease_s": 6.0, "grace_s": 3.0, **jobs}
    return ServerSettings.model_validate({"models": {"gpt-4o-mini*": str(base)}, "jobs": plain})


class Place:
    def __init__(self, path: Path, base: Path, *, url=None, **jobs):
        self.folder = ServerFolder(path)
        self.folder.make()
        self.settings = settings_for(base, **jobs)
        self.url = url or store_url(self.folder.database)
        self.database = open_database(self.url)
        self.base = str(base)

    def upload(self, data: bytes):
        with Incoming(self.folder, 1 << 30) as incoming:
            incoming.write(data)
            row = add_file(
                self.database, self.folder, incoming, filename="rows.jsonl", purpose="fine-tune"
            )
        return row["id"]

    def submit(self, file_id, **values):
        plain = {
            "model": "gpt-4o-mini", "base_model": self.base, "training_file": file_id,
            "validation_file": None, "method": "supervised", "suffix": None, "seed": 3,
            "hyperparameters": {"n_epochs": 3, "batch_size": 4}, "metadata": None,
            "integrations": None, "organization": "local",
        }  # fmt: skip
        with self.database.writing() as connection:
            return add_job(connection, Wish(**{**plain, **values}))

    def weights(self, job_id):
        """SHA-256 of the finished model's weights."""
        (path,) = (self.folder.job(job_id) / "run" / "model").glob("*.safetensors")
        return hashlib.sha256(path.read_bytes()).hexdigest()
