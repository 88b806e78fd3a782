"""The indexes that the tables declare, the faults of their constraints, and folded texts."""

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

import agents.catalogue  # noqa: F401 - declares all tables
from schemas.faults import Fault, Invalid, NotFound
from storage.constraints import fault_of
from storage.folding import fold, fold_beyond_mailbox
from storage.table import METADATA

# indexes


def _indexed_columns(table: sa.Table) -> list[list[str]]:
    """The columns of each key and each index of a table, in their order. Partial indexes do not count."""
    keys = [
        constraint
        for constraint in table.constraints
        if isinstance(constraint, (sa.UniqueConstraint, sa.PrimaryKeyConstraint))
    ]
    indexes = [index for index in table.indexes if index.dialect_options["postgresql"]["where"] is None]
    return [[column.name for column in item.columns] for item in (*keys, *indexes)]


def _is_erased_with_a_visitor(table: sa.Table) -> bool:
    return "visitor_id" in table.c


FOREIGN_KEYS = [
    pytest.param(table, key.column_keys, id=str(key.name))
    for table in METADATA.sorted_tables
    for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
    if _is_erased_with_a_visitor(key.referred_table)
]


@pytest.mark.parametrize(("table", "columns"), FOREIGN_KEYS)
def test_foreign_keys_to_rows_that_are_erased_have_an_index(table: sa.Table, columns: list[str]) -> None:
    """Without an index, PostgreSQL would scan the whole table for each deleted row."""
    assert any(indexed[: len(columns)] == columns for indexed in _indexed_columns(table))


# faults


class _PostgresError(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.__dict__.update(attributes)


def _fault(*, in_path: tuple[str, ...] = (), **attributes: Any) -> Fault | None:
    """The fault for an error of PostgreSQL with these attributes."""
    driver_error = Exception()
    driver_error.__cause__ = _PostgresError(**attributes)
    return fault_of(DBAPIError("INSERT INTO visits", None, driver_error), in_path)


def test_a_missing_parent_is_404_if_the_path_names_it_and_400_if_the_body_does() -> None:
    not_found = _fault(constraint_name="checkins_service_id_fkey", in_path=("serviceId",))
    assert isinstance(not_found, NotFound)
    invalid = _fault(constraint_name="checkins_service_id_fkey", in_path=("visitorId",))
    assert isinstance(invalid, Invalid)
    assert [(entry.code, entry.field) for entry in invalid.entries] == [("service_not_found", "serviceId")]


@pytest.mark.parametrize("table", ["visits", "checkins"])
def test_a_visitor_that_was_erased_meanwhile_is_404(table: str) -> None:
    not_found = _fault(constraint_name=f"{table}_visitor_id_fkey")
    assert isinstance(not_found, NotFound)
    assert (not_found.code, not_found.entries[0].field) == ("visitor_not_found", None)


def test_a_text_that_is_too_long_for_an_index_is_400() -> None:
    too_long = _fault(sqlstate="54000", constraint_name="visitors_first_name_idx")
    assert isinstance(too_long, Invalid)
    assert too_long.code == "too_long"


def test_a_violation_of_an_unknown_constraint_is_a_bug() -> None:
    assert _fault(sqlstate="23514", constraint_name="some_check") is None


# folding


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Łukasz Wałęsa", "lukasz walesa"),
        ("SØREN ǿ", "soren o"),
        ("Đorđe", "dorde"),
        ("Groß GROẞ", "gross gross"),
        ("Æsir Œuvre", "aesir oeuvre"),
        ("İzmir Iş\N{LATIN SMALL LETTER DOTLESS I}k", "izmir isik"),
        ("  Éloïse \t Müller ", "eloise muller"),
        ("Ⅷ ﬁn", "viii fin"),
        (
            "O\u2019Brien O\u02bcBrien O\u2032Brien O`Brien O\u00b4Brien \uff07",
            "o'brien o'brien o'brien o'brien o'brien '",
        ),
        ("Anne\u2011Marie \u2013 \u2014 \u2212 \u2010 \ufe63 \uff0d", "anne-marie - - - - - -"),
        ("\u201cL\u00e9a\u201d \u00abA\u00bb \u201eB\u201f \u2033", '"lea" "a" "b" "'),
        ("Jean\u00a0Paul\u202fde\u2009la\u3000Tour", "jean paul de la tour"),
        ("Zo\u00ad\u200b\u2060ra\ufeff Al\u200d\u200ci", "zora ali"),
    ],
)
def test_a_folded_text_has_no_case_no_accents_and_plain_quotes_and_dashes(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_folding_a_folded_text_changes_nothing(text: str) -> None:
    folded = fold(text)
    assert folded is not None
    assert fold(folded) == folded


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_folded_like_any_text(text: str) -> None:
    """A text with an accent is folded the slow way, and the accent is removed."""
    assert fold(text) == fold(f"{text}\N{COMBINING ACUTE ACCENT}")


@given(st.emails().filter(lambda email: "`" not in email and "xn--" not in email.lower()))
def test_an_email_without_accents_needs_no_folded_column(email: str) -> None:
    assert fold_beyond_mailbox(email) is None


@pytest.mark.parametrize(
    ("email", "folded"),
    [
        ("José@Example.com", "jose@example.com"), ("a@Bücher.de", "a@bucher.de"), ("a@xn--bcher-kva.de", "a@bucher.de"),
        ("e@straße.de", "e@strasse.de"),
    ],
)  # fmt: skip
def test_an_email_with_accents_has_a_folded_column(email: str, folded: str) -> None:
    assert fold_beyond_mailbox(email) == folded
