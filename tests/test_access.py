"""API keys: made, found, revoked; nothing that could be used is kept."""

import json
import time

import pytest

from postgres_server import store_url
from tunewright import access
from tunewright.access import KeyRing, create_key, list_keys, revoke_key
from tunewright.cli.main import run
from tunewright.database.engine import open_database
from tunewright.errors import UserError


@pytest.fixture
def database(tmp_path):
    opened = open_database(store_url(tmp_path / "server.sqlite"))
    yield opened
    opened.close()


def test_a_key_is_found_by_its_text_and_kept_as_a_hash(database, tmp_path):
    assert KeyRing(database=database).is_empty
    key, kept = create_key(database, "app", ["infer"], owner="shop")
    ring = KeyRing(database=database)
    assert not ring.is_empty
    caller = ring.find(key.encode())
    assert (caller.id, caller.owner) == (kept["id"], "shop")
    assert caller.may("infer") and not caller.may("tune") and not caller.may("admin")
    assert len(key) >= 43  # 256 random bits
    for wrong in (
        b"",
        key[:-1].encode(),
        key.upper().encode(),
        kept["id"].encode(),
        key.encode() + b" ",
    ):
        assert ring.find(wrong) is None
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.encode() not in stored
    assert key not in json.dumps(list_keys(database))


def test_admin_may_everything_and_sees_everything(database):
    key, _ = create_key(database, "me", ["admin"], owner="shop")
    caller = KeyRing(database=database).find(key.encode())
    assert caller.owner is None and all(caller.may(scope) for scope in access.SCOPES)


def test_revoked_and_expired_keys_are_refused_and_the_server_stays_closed(database, monkeypatch):
    key, kept = create_key(database, "app", ["read"])
    short, _ = create_key(database, "short", ["read"], expires_in_days=1)
    ring = KeyRing(database=database)
    assert ring.find(key.encode()) and ring.find(short.encode())
    revoke_key(database, kept["id"])
    ring.refresh()
    assert ring.find(key.encode()) is None and not ring.is_empty
    day_after = time.time() + 86401
    monkeypatch.setattr(access.time, "time", lambda: day_after)
    assert ring.find(short.encode()) is None
    with pytest.raises(UserError, match="no such key"):
        revoke_key(database, kept["id"])


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "Admin"]])
def test_unknown_scopes_are_told(database, scopes):
    with pytest.raises(UserError, match="scope"):
        create_key(database, "app", scopes)


def test_commands(tmp_path, capsys):
    where = ["--server", str(tmp_path), "--json"]
    assert run(["keys", "create", "app", "--scope", "infer,read", *where]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["keys", "list", *where]) == 0
    text = capsys.readouterr().out
    assert made["key"] not in text and made["id"] in text
    assert run(["keys", "revoke", made["id"], *where]) == 0
    assert run(["keys", "revoke", made["id"], *where]) == 2
