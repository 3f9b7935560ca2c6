"""The tables as queries see them. What makes them are the versions in versions/; a test compares.

`number` orders the rows of a table by their making; clients see `id`. Times are seconds since 1970,
whole where clients read them.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()
BIG = BigInteger().with_variant(Integer, "sqlite")


def _number() -> Column[int]:
    return Column("number", BIG, primary_key=True, autoincrement=True)


FILES = Table(
    "files",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BIG, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("expires_at", BIG),
    Column("status", String(16), nullable=False),
    Column("status_details", Text),
    Column("num_rows", BIG),
    Column("shape", String(32)),
    sqlite_autoincrement=True,
)
UPLOADS = Table(
    "uploads",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("bytes", BIG, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("expires_at", BIG, nullable=False),
    Column("file_expires_s", BIG),
    Column("file_id", String(64)),
    sqlite_autoincrement=True,
)
UPLOAD_PARTS = Table(
    "upload_parts",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("upload_id", String(64), ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False),
    Column("bytes", BIG, nullable=False),
    Column("created_at", BIG, nullable=False),
    sqlite_autoincrement=True,
)
JOBS = Table(
    "jobs",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("status", String(24), nullable=False),
    Column("model", Text, nullable=False),
    Column("base_model", Text, nullable=False),
    Column("tuned_name", Text, nullable=False),
    Column("fine_tuned_model", Text),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("method", String(24), nullable=False),
    Column("hyperparameters", JSON, nullable=False),
    Column("suffix", Text),
    Column("seed", BIG, nullable=False),
    Column("integrations", JSON),
    Column("metadata", JSON),
    Column("created_at", BIG, nullable=False),
    Column("started_at", BIG),
    Column("finished_at", BIG),
    Column("estimated_finish", BIG),
    Column("trained_tokens", BIG),
    Column("error", JSON),
    Column("result_files", JSON, nullable=False),
    # The queue.
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("prepared", Boolean, nullable=False, default=False),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("lease_owner", String(128)),
    Column("lease_until", Float),
    Column("fence", BIG, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("memory_bytes", BIG),
    Column("waits_for", Text),
    # What is told beside OpenAI's keys.
    Column("forecast", JSON),
    Column("outcome", JSON),
    Column("num_events", Integer, nullable=False, server_default="0"),
    Column("last_step", BIG, nullable=False, server_default="0"),
    Column("total_steps", BIG),
    Column("method_options", JSON),
    sqlite_autoincrement=True,
)
Index("jobs_by_status", JOBS.c.status, JOBS.c.priority, JOBS.c.number)
JOB_METADATA = Table(
    "job_metadata",
    METADATA,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
)
EVENTS = Table(
    "job_events",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("place", Integer, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("type", String(16), nullable=False),
    Column("data", JSON),
    UniqueConstraint("job_id", "place", name="events_in_order"),
    sqlite_autoincrement=True,
)
CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step", BIG, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("model", Text, nullable=False),
    Column("metrics", JSON, nullable=False),
    UniqueConstraint("job_id", "step", name="one_checkpoint_per_step"),
    sqlite_autoincrement=True,
)
PERMISSIONS = Table(
    "checkpoint_permissions",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("model", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("created_at", BIG, nullable=False),
    sqlite_autoincrement=True,
)
MODELS = Table(
    "models",
    METADATA,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("step", BIG),
    Column("folder", Text, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("deleted_at", BIG),
    sqlite_autoincrement=True,
)
REQUESTS = Table(
    "idempotency_keys",
    METADATA,
    _number(),
    Column("owner", String(64), nullable=False),
    Column("route", String(128), nullable=False),
    Column("key", String(256)),
    Column("body_sha256", String(64), nullable=False),
    Column("made_id", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("owner", "route", "key", name="one_answer_per_key"),
    sqlite_autoincrement=True,
)
Index("requests_by_body", REQUESTS.c.owner, REQUESTS.c.route, REQUESTS.c.body_sha256)
DELIVERIES = Table(
    "webhook_deliveries",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("type", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", Float, nullable=False, server_default="0"),
    Column("last_error", Text),
    UniqueConstraint("id", "url", name="told_once_per_address"),
    sqlite_autoincrement=True,
)
Index("deliveries_due", DELIVERIES.c.status, DELIVERIES.c.next_at)
API_KEYS = Table(
    "api_keys",
    METADATA,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(64), nullable=False, server_default=""),
    Column("name", String(128), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("ending", String(8), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("expires_at", BIG),
    Column("revoked_at", BIG),
    sqlite_autoincrement=True,
)
RELEASES = Table(
    "releases",
    METADATA,
    _number(),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("share", Float),
    Column("run", Text, nullable=False),
    Column("lineage", JSON, nullable=False),
    Column("gate", JSON, nullable=False),
    Column("created_at", BIG, nullable=False),
    Column("changed_at", BIG, nullable=False),
    UniqueConstraint("name", "version", name="one_release_per_version"),
    sqlite_autoincrement=True,
)
RELEASE_EVENTS = Table(
    "release_events",
    METADATA,
    _number(),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", BIG, nullable=False),
    Column("was", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("share", Float),
    Column("who", String(128), nullable=False),
    Column("why", Text, nullable=False),
    sqlite_autoincrement=True,
)
