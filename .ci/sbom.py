"""The software bill of materials: `python .ci/sbom.py [FILE]` writes CycloneDX 1.6 as JSON.

Lists what `pip install tunewright` brought into this environment: the closure of its base
dependencies by the metadata of the installed distributions, with versions, licences and who needs
whom. Nothing is asked of a network. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "tunewright"


def make_bill(root: str = ROOT) -> dict[str, Any]:
    """The bill of `root` as a CycloneDX document. Raises PackageNotFoundError for `root` alone."""
    found, needs = walk(root)
    own = component(found.pop(root), "application")
    parts = [component(item, "library") for _, item in sorted(found.items())]
    refs = {name: purl(item) for name, item in [*found.items(), (root, distribution(root))]}
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": parts,
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(refs[item] for item in needs[name])}
            for name in sorted(refs)
        ],
    }
    content = json.dumps(document, sort_keys=True)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"}


def walk(root: str) -> tuple[dict[str, Distribution], dict[str, set[str]]]:
    """Every distribution that `root` needs here, by canonical name, and who needs whom.

    Requirements of other platforms and extras that nobody asked for are left out; one that is
    required but not installed is left out too (it would not run here).
    """
    found: dict[str, Distribution] = {}
    needs: dict[str, set[str]] = {}
    queue: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    seen = set(queue)
    while queue:
        name, extras = queue.pop()
        found[name] = distribution(name)
        wanted = needs.setdefault(name, set())
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker and not any(need.marker.evaluate({"extra": e}) for e in extras | {""}):
                continue
            item = (canonicalize_name(need.name), frozenset(need.extras))
            try:
                distribution(item[0])
            except PackageNotFoundError:
                continue
            wanted.add(item[0])
            if item not in seen:
                seen.add(item)
                queue.append(item)
    return found, needs


def component(item: Distribution, kind: str) -> dict[str, Any]:
    """One distribution as a CycloneDX component."""
    meta = item.metadata
    made: dict[str, Any] = {
        "type": kind,
        "bom-ref": purl(item),
        "name": meta["Name"],
        "version": item.version,
        "purl": purl(item),
    }
    licences = licences_of(item)
    return {**made, "licenses": licences} if licences else made


def licences_of(item: Distribution) -> list[dict[str, Any]]:
    """The licence as an SPDX expression where the package states one, else in its own words."""
    expression = item.metadata.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    kinds = [line.split(" :: ")[-1] for line in item.metadata.get_all("Classifier") or ()
             if line.startswith("License :: ") and line != "License :: OSI Approved"]  # fmt: skip
    text = (item.metadata.get("License") or "").strip().partition("\n")[0]
    names = [text] if text and len(text) < 80 else kinds
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def purl(item: Distribution) -> str:
    """The package URL; a build's local tag (+cpu) is no part of the published version."""
    name = canonicalize_name(item.metadata["Name"])
    return f"pkg:pypi/{name}@{item.version.partition('+')[0]}"


def main(arguments: list[str]) -> int:
    """Write to the file that is named, else to stdout."""
    text = json.dumps(make_bill(), indent=2, ensure_ascii=False) + "\n"
    if not arguments:
        sys.stdout.write(text)
        return 0
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(json.loads(text)['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
