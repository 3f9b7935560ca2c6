"""Limits of keys, and which key made what counts against them."""

import sqlalchemy as sa
from alembic import op

revision = "v0004_quotas"
down_revision = "v0003_method_options"


def upgrade() -> None:
    """Add a column to each of four tables."""
    op.add_column("api_keys", sa.Column("quota", sa.JSON(), nullable=True))
    for table in ("files", "uploads", "jobs"):
        key = sa.Column("key_id", sa.String(length=64), server_default="", nullable=False)
        op.add_column(table, key)
    op.create_index("files_by_key", "files", ["key_id"])
    op.create_index("jobs_by_key", "jobs", ["key_id"])
