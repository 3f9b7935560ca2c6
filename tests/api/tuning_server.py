"""`tunewright serve` as a process of its own, with its worker, on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import psutil

from postgres_server import SUITE, new_database


def write_settings(folder: Path, base: Path, jobs: dict, **more) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"models": {"gpt-4o-mini*": str(base)}, "jobs": jobs, **more}
    if server := os.environ.get(SUITE):
        settings["database"] = new_database(server)
    (folder / "settings.yaml").write_text(json.dumps(settings))


class TuningServer:
    """Started at once; `url` is known when it listens."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0):
        command = [sys.executable, "-c", "from tunewright.cli.main import main; main()", "serve"]
        command += ["--server", str(folder), "--port", str(port), *arguments]
        self.folder = folder
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.lines: list[str] = []
        self.url = ""
        listening = threading.Event()

        def read():
            for line in self.process.stderr:
                self.lines.append(line)
                if found := re.search(r"OPENAI_BASE_URL=(\S+)", line):
                    self.url = found[1]
                    listening.set()
            listening.set()

        threading.Thread(target=read, daemon=True).start()
        assert listening.wait(120) and self.url, "".join(self.lines)
        self.root = self.url.removesuffix("/v1")
        self.port = int(self.root.rpartition(":")[2])

    def client(self, **options) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=self.url, api_key="none", _strict_response_validation=True, **options
        )

    def worker(self) -> psutil.Process | None:
        """Its worker process, while there is one."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "tunewright.jobs.work" in words and str(self.folder) in words:
                return process
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return "".join(self.lines)


def wait_for(client, job_id, states=("succeeded", "failed", "cancelled"), seconds=240):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in states:
            return job
        time.sleep(0.3)
    raise AssertionError(f"{job.status} after {seconds} s")
