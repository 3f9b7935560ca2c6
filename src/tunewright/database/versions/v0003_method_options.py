"""What a job's method has beside hyper-parameters: the grader of a reinforcement job."""

import sqlalchemy as sa
from alembic import op

revision = "v0003_method_options"
down_revision = "v0002_keys_and_releases"


def upgrade() -> None:
    """Add one column."""
    op.add_column("jobs", sa.Column("method_options", sa.JSON(), nullable=True))
