"""Logs tell what failed, without personal data."""

import asyncpg

from runtime import logs


def test_an_error_of_the_database_is_logged_with_the_names_of_the_schema_and_without_its_message() -> None:
    name = "Zora"
    error = asyncpg.CheckViolationError(f"new row violates check constraint: ({name})")
    error.table_name, error.constraint_name = "visitors", "visitors_age_check"
    try:
        raise ValueError(name) from error
    except ValueError as caught:
        text = logs.exception_without_values(None, "", {"exc_info": caught})["exception"]
    assert "asyncpg.exceptions.CheckViolationError (table visitors, constraint visitors_age_check)\n" in text
    assert text.endswith("builtins.ValueError\n")
    assert name not in text
