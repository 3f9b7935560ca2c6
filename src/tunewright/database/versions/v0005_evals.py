"""Evals, their runs, and what each row came to."""

import sqlalchemy as sa
from alembic import op

revision = "v0005_evals"
down_revision = "v0004_quotas"


def _big() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _id(name: str = "id") -> sa.Column[str]:
    return sa.Column(name, sa.String(length=64), nullable=False)


def _number() -> sa.Column[int]:
    return sa.Column("number", _big(), autoincrement=True, nullable=False)


def _owner() -> sa.Column[str]:
    return sa.Column("owner", sa.String(length=64), server_default="", nullable=False)


def upgrade() -> None:
    """Make three tables."""
    op.create_table(
        "evals",
        _number(),
        _id(),
        _owner(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("criteria", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("created_at", _big(), nullable=False),
        sa.Column("updated_at", _big(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "eval_runs",
        _number(),
        _id(),
        _id("eval_id"),
        _owner(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("created_at", _big(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("beat_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["eval_id"], ["evals.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("eval_runs_by_status", "eval_runs", ["status", "number"])
    op.create_table(
        "eval_items",
        _number(),
        _id(),
        _id("run_id"),
        sa.Column("place", _big(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("item", sa.JSON(), nullable=False),
        sa.Column("sample", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("usage", sa.JSON(), nullable=False),
        sa.Column("created_at", _big(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("run_id", "place", name="one_item_per_row"),
        sqlite_autoincrement=True,
    )
