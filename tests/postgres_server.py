"""Databases for tests: SQLite in a file, and a PostgreSQL of the test run's own on loopback.

TUNEWRIGHT_TEST_POSTGRES may name a server instead (a URL with the right to make databases).
TUNEWRIGHT_SUITE_POSTGRES names one that every test of the server then uses in the place of SQLite:
bench/postgres_suite.py starts it and runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tunewright.database.engine import sqlite_url

SUITE = "TUNEWRIGHT_SUITE_POSTGRES"


@contextmanager
def running_postgres():
    """The URL of a PostgreSQL; skips where there is none."""
    given = os.environ.get("TUNEWRIGHT_TEST_POSTGRES")
    pytest.importorskip("psycopg")
    if given:
        yield given
        return
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    if not any(found):
        pytest.skip("no PostgreSQL here")
    binaries = Path(str(next(item for item in found if item))).resolve().parent
    place = Path(tempfile.mkdtemp(prefix="tunewright-pg-"))
    as_user = []
    if os.geteuid() == 0:  # it refuses to run as root
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(place, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*command):
        subprocess.run([*as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd=place)

    call(str(binaries / "initdb"), "-D", str(place / "data"), "-U", "tw", "-A", "trust")
    options = f"-p {port} -c max_connections=400 -c listen_addresses=127.0.0.1 -k {place}"
    call(str(binaries / "pg_ctl"), "-D", str(place / "data"), "-w", "-o", options,
         "-l", str(place / "log"), "start")  # fmt: skip
    try:
        yield f"postgresql+psycopg://tw@127.0.0.1:{port}/postgres"
    finally:
        call(str(binaries / "pg_ctl"), "-D", str(place / "data"), "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)


def new_database(server_url):
    """The URL of an empty database on that server."""
    name = f"tw_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def store_url(path):
    """The URL of a new database: SQLite in that file, or PostgreSQL where the suite runs on it."""
    server = os.environ.get(SUITE)
    return new_database(server) if server else sqlite_url(path)


def settle(folder):
    """Give a server's folder a database of its own where the suite runs on PostgreSQL."""
    if server := os.environ.get(SUITE):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.yaml").write_text(json.dumps({"database": new_database(server)}))
    return folder
