"""Releases swapped under load: no request may fail.

Thirty clients ask one release while it is promoted, put in canary and rolled back again and again;
every answer must be the own answer of the version that the reply names.

    python bench/hot_swap.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

from record import at_least, at_most, record

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]
HARDWARE = "2 shared cores of an AMD EPYC with AVX512-BF16"
NUM_CLIENTS = 30
ASK = [{"role": "user", "content": "where is my card"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short, and nothing is recorded")
    quick = parser.parse_args().quick
    import openai
    from tests.api.conftest import Live
    from tests.test_hosting import make_adapters

    from tunewright.api.app import make_app
    from tunewright.database.engine import open_database, sqlite_url
    from tunewright.hosting import Hosting
    from tunewright.releases.board import add_release, move_release, roll_back

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        database = open_database(sqlite_url(folder / "server.sqlite"))
        for name, path in make_adapters(folder / "adapters", 4).items():
            add_release(database, "support", path, {"model": name}, who="bench")

        def put(version: int, stage: str, share: float | None = None) -> None:
            move_release(database, "support", version, stage, who="bench", why="bench", share=share)

        put(1, "production")
        live = Live(make_app(Hosting([], max_adapters=3, max_waiting=1024), database=database))
        stop, errors, seen = threading.Event(), [], []

        def load(number: int) -> None:
            client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
            for turn in itertools.count():
                if stop.is_set():
                    return
                try:
                    reply = client.chat.completions.with_raw_response.create(
                        model="support", messages=ASK, max_tokens=16, temperature=0,
                        user=f"{number}-{turn}",
                    )  # fmt: skip
                    text = reply.parse().choices[0].message.content
                    seen.append((reply.headers["x-tunewright-release"], text))
                except Exception as error:
                    errors.append(repr(error))

        threads = [threading.Thread(target=load, args=(n,)) for n in range(NUM_CLIENTS)]
        [thread.start() for thread in threads]
        swaps = 0
        for _ in range(1 if quick else 10):
            for step in (
                lambda: put(2, "canary", 0.5), lambda: put(2, "production"),
                lambda: put(3, "production"), lambda: roll_back(database, "support", who="bench"),
                lambda: put(4, "canary", 0.2), lambda: put(1, "production"),
            ):  # fmt: skip
                time.sleep(1.0)
                step()
                swaps += 1
        time.sleep(1.0)
        stop.set()
        [thread.join() for thread in threads]
        live.stop()
        database.close()
    answers: dict[str, set[str]] = {}
    for release, text in seen:
        answers.setdefault(release, set()).add(text)
    mixed = sum(len(texts) - 1 for texts in answers.values())
    print(f"{len(seen)} requests, {swaps} swaps, {len(errors)} errors {errors[:3]}, {mixed} wrong")
    if quick:
        return
    record(
        "hot_swap",
        [
            at_most("hot swap under load: failed requests", len(errors), 0),
            at_most("hot swap under load: answers of another version than named", mixed, 0),
            at_least("hot swap under load: versions that answered", len(answers), 4),
        ],
        HARDWARE,
        {"requests": len(seen), "swaps": swaps},
    )


if __name__ == "__main__":
    main()
