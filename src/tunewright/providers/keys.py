"""Keys of providers: from the environment or a keyring, never from a recipe, never into a log."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tunewright.errors import ProviderError

KEYRING_SERVICE = "tunewright"


def find_key(names: Sequence[str], provider: str) -> str:
    """The first of these environment variables that is set, else the keyring's entry of the first
    name under the service "tunewright". Raises ProviderError saying where a key is looked for.
    """
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return value
    kept = _from_keyring(names[0])
    if kept:
        return kept
    raise ProviderError(
        f"{provider}: no key; set {' or '.join(names)} in the environment, or keep it in a keyring "
        f"(keyring set {KEYRING_SERVICE} {names[0]})"
    )


def _from_keyring(name: str) -> str | None:
    try:
        import keyring
    except ImportError:
        return None
    try:
        found = keyring.get_password(KEYRING_SERVICE, name)
    except Exception:  # a keyring that is locked or has no backend is no key
        return None
    return None if found is None else str(found).strip()


def without_key(text: str, key: str | None) -> str:
    """The text with the key, and what providers show of one, taken out."""
    if key and len(key) >= 8:
        text = text.replace(key, "…")
    words = [
        "…" if word.startswith(("sk-", "AIza", "ya29.")) or "***" in word else word
        for word in text.split()
    ]
    return " ".join(words)
