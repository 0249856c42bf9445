"""What lists of runs sort and search by, in narrow tables that the database itself keeps in step with `runs`.

Triggers, because the rows of runs are written in many places. On SQLite a revision that rebuilds `runs` (a "batch")
loses them and has to make them again: `keep_in_step` does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_LABEL = ("id", "name", "notes", "strategy", "markets", "tags")
_SQLITE_LABEL = "lower(" + " || char(31) || ".join(f"{{row}}.{name}" for name in _LABEL) + ")"
_SQLITE_FIGURES = """INSERT INTO run_figures (run_id, key, value)
    SELECT {row}.id, figure.key, figure.value FROM {source}json_each({row}.metrics) AS figure
    WHERE figure.type IN ('integer', 'real') AND length(figure.key) <= 64"""
_POSTGRES_LABEL = "lower(concat_ws(chr(31), " + ", ".join(f"CAST({{row}}.{name} AS text)" for name in _LABEL) + "))"
_POSTGRES_FIGURES = """INSERT INTO run_figures (run_id, key, value)
    SELECT {row}.id, figure.key, CAST(CAST(figure.value AS text) AS float8)
    FROM {source}json_each({row}.metrics) AS figure
    WHERE json_typeof(figure.value) = 'number' AND length(figure.key) <= 64"""


def upgrade() -> None:
    op.create_table(
        "run_labels",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("markets", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_labels"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_labels_run_id", ondelete="CASCADE"),
    )
    op.create_table(
        "run_figures",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_run_figures"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_figures_run_id", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    postgres = op.get_bind().dialect.name == "postgresql"
    label, figures = (_POSTGRES_LABEL, _POSTGRES_FIGURES) if postgres else (_SQLITE_LABEL, _SQLITE_FIGURES)
    op.execute(f"INSERT INTO run_labels (run_id, text, markets, tags) SELECT id, {label.format(row='runs')}, "
               "CAST(markets AS text), CAST(tags AS text) FROM runs")
    op.execute(figures.format(row="runs", source="runs, "))
    op.create_index("ix_run_figures_key_value_run_id", "run_figures", ["key", "value", "run_id"])
    keep_in_step(postgres=postgres)


def keep_in_step(*, postgres: bool) -> None:
    """Make the triggers on `runs`."""
    if postgres:
        op.execute(f"""CREATE FUNCTION label_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO run_labels (run_id, text, markets, tags)
                VALUES (NEW.id, {_POSTGRES_LABEL.format(row='NEW')}, CAST(NEW.markets AS text), CAST(NEW.tags AS text))
                ON CONFLICT (run_id) DO UPDATE
                    SET text = excluded.text, markets = excluded.markets, tags = excluded.tags;
            RETURN NULL; END $$""")
        op.execute(f"""CREATE FUNCTION figure_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM run_figures WHERE run_id = NEW.id;
            {_POSTGRES_FIGURES.format(row='NEW', source='')};
            RETURN NULL; END $$""")
        op.execute("CREATE TRIGGER runs_labels AFTER INSERT OR UPDATE OF name, notes, strategy, markets, tags ON runs "
                   "FOR EACH ROW EXECUTE FUNCTION label_run()")
        op.execute("CREATE TRIGGER runs_figures AFTER INSERT OR UPDATE OF metrics ON runs "
                   "FOR EACH ROW EXECUTE FUNCTION figure_run()")
        return
    label, figures = _SQLITE_LABEL.format(row="NEW"), _SQLITE_FIGURES.format(row="NEW", source="")
    op.execute(f"""CREATE TRIGGER runs_made AFTER INSERT ON runs BEGIN
        INSERT INTO run_labels (run_id, text, markets, tags) VALUES (NEW.id, {label}, NEW.markets, NEW.tags);
        {figures};
        END""")
    op.execute(f"""CREATE TRIGGER runs_labels AFTER UPDATE OF name, notes, strategy, markets, tags ON runs BEGIN
        UPDATE run_labels SET text = {label}, markets = NEW.markets, tags = NEW.tags WHERE run_id = NEW.id;
        END""")
    op.execute(f"""CREATE TRIGGER runs_figures AFTER UPDATE OF metrics ON runs BEGIN
        DELETE FROM run_figures WHERE run_id = NEW.id;
        {figures};
        END""")
