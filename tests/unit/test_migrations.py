"""Migrations expand first: none removes what the previous release uses, unless it says from which release on."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory

from storage import migrate
from tests.support import next_release

BASE = "0021"
"""The last migration from before the rule."""
BREAKING = {
    "adding-not-nullable-field", "adding-required-field", "ban-drop-column", "ban-drop-constraint", "ban-drop-default",
    "ban-drop-not-null", "ban-drop-table", "ban-truncate-cascade", "changing-column-type", "renaming-column",
    "renaming-table",
}  # fmt: skip
"""Rules of squawk, a linter of migrations, about what breaks running clients. Its other rules are about locks."""


def _later_migrations() -> Sequence[Script]:
    return [*ScriptDirectory.from_config(migrate._config()).iterate_revisions("head", BASE)]


def _sql(migration: Any) -> str:
    """The statements of a migration."""
    output = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": output, "literal_binds": True}
    )
    with Operations.context(context):
        migration.upgrade()
    return output.getvalue()


def _breaking(sql: str) -> set[str]:
    """The rules that statements violate. A migration may violate them if it makes older programs refuse its schema."""
    if "update compatibility set oldest_revision" in sql:
        return set()
    linter = Path(sys.executable).with_name("squawk")
    linted = subprocess.run(
        [linter, "--reporter", "json"], input=sql, capture_output=True, text=True, check=False, timeout=60
    )
    assert linted.returncode in (0, 1), linted.stderr
    return {violation["rule_name"] for violation in json.loads(linted.stdout)} & BREAKING


def test_no_migration_breaks_programs_of_the_previous_release() -> None:
    breaking = {migration.revision: _breaking(_sql(migration.module)) for migration in _later_migrations()}
    assert {revision for revision, rules in breaking.items() if rules} == set()


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("alter table visitors drop column nickname", "ban-drop-column"),
        ("alter table visitors rename column name to full_name", "renaming-column"),
        ("alter table visits add column gate text not null", "adding-required-field"),
        ("alter table visits alter column gate set not null", "adding-not-nullable-field"),
        ("drop table notes", "ban-drop-table"),
    ],
)
def test_a_statement_that_breaks_the_previous_release_is_noticed(statement: str, rule: str) -> None:
    assert _breaking(statement) == {rule}
    assert _breaking(f"{statement}; update compatibility set oldest_revision = '0021'") == set()


def test_a_migration_that_only_adds_breaks_nothing() -> None:
    sql = _sql(next_release.migration("9000"))
    assert "ADD COLUMN nickname" in sql
    assert _breaking(sql) == set()
