"""Configs of other tools become recipes that train: `python bench/imports.py`.

Keys and values of the tools' own example configs (tests/importers/configs, each with its source)
are imported; a key without a fate counts as lost. The recipes chosen in tests/story train for three
steps on a tiny base and rows of the shape that they speak of. Writes results/imports.json.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import at_least, at_most, record

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    from tests.importers.test_importers import ALL, is_accounted, leaves, words_of, write
    from tests.story.test_import_and_train import chosen, train_imported

    from tunewright.importers.table import import_config

    tools: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    lost: list[str] = []
    trained: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        for number, parameter in enumerate(ALL):
            tool, entry = parameter.values
            folder = Path(place) / f"config-{number}"
            folder.mkdir()
            imported = import_config(write(tool, entry, folder))
            fates = [fate.key for fate in imported.fates]
            values = entry.get("values") or words_of(entry["words"])
            lost += [f"{entry['source']}: {key}" for key in leaves(values)
                     if not is_accounted(key, fates)]  # fmt: skip
            tools[tool] += imported.tool == tool
            outcomes.update(fate.outcome for fate in imported.fates)
        for number, parameter in enumerate(chosen()):
            tool, entry = parameter.values
            folder, started = Path(place) / f"train-{number}", time.monotonic()
            folder.mkdir()
            losses = train_imported(tool, entry, folder)
            if losses and all(loss > 0 for loss in losses):
                trained.append(entry["source"])
            print(round(time.monotonic() - started, 1), entry["source"], losses, flush=True)
    record(
        "imports",
        [
            at_least("real configs imported", sum(tools.values()), 30),
            at_least("tools that they come from", len(tools), 6),
            at_most("keys lost in silence", len(lost), 0),
            at_least("imported recipes trained on a tiny base", len(trained), 10),
        ],
        "2 shared cores of an AMD EPYC with AVX512-BF16",
        {"tools": dict(tools), "fates": dict(outcomes), "trained": trained, "lost": lost},
    )


if __name__ == "__main__":
    main()
