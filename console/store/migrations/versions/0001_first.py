"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "users",
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("auth_type", sa.Text(), nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("last_modified", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("username", name="pk_users"),
    )
    op.create_table(
        "defenders",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("fqdn", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.Text(), nullable=False),
        sa.Column("first_seen", INSTANT, nullable=False),
        sa.Column("last_modified", INSTANT, nullable=False),
        sa.Column("last_seen", INSTANT, nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("certificate_fingerprint", sa.Text(), nullable=False),
        sa.Column("certificate_not_after", INSTANT, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_defenders"),
        sa.UniqueConstraint("public_key", name="uq_defenders_public_key"),
    )
    op.create_table(
        "spools",
        sa.Column("id", ROW, autoincrement=True, nullable=False),
        sa.Column("defender_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("opened", INSTANT, nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("missing", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_spools"),
        sa.ForeignKeyConstraint(
            ["defender_id"], ["defenders.id"], name="fk_spools_defender_id_defenders", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("defender_id", "epoch", name="uq_spools_defender_id_epoch"),
    )
    op.create_table(
        "events",
        sa.Column("id", ROW, autoincrement=True, nullable=False),
        sa.Column("spool_id", ROW, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("time", INSTANT, nullable=False),
        sa.Column("received", INSTANT, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(
            ["spool_id"], ["spools.id"], name="fk_events_spool_id_spools", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("spool_id", "number", name="uq_events_spool_id_number"),
    )
    op.create_table(
        "generations",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created", INSTANT, nullable=False),
        sa.Column("not_after", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("kind", "number", name="pk_generations"),
    )
    op.create_table(
        "secrets",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "number", "name", name="pk_secrets"),
        sa.ForeignKeyConstraint(
            ["kind", "number"],
            ["generations.kind", "generations.number"],
            name="fk_secrets_kind_generations",
            ondelete="CASCADE",
        ),
    )
