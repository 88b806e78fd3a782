"""What the tables promise as they are declared, and what is kept folded in them."""

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


def _leading(table: sa.Table) -> list[list[str]]:
    """The columns of each index and key of a table, in their order."""
    unique = [each for each in table.constraints if isinstance(each, (sa.UniqueConstraint, sa.PrimaryKeyConstraint))]
    whole = [index for index in table.indexes if index.dialect_options["postgresql"]["where"] is None]
    return [[column.name for column in each.columns] for each in (*unique, *whole)]


def _about_a_visitor(table: sa.Table) -> bool:
    """Whether its rows go when a visitor is erased."""
    return "visitor_id" in table.c


REFERENCES = [
    pytest.param(table, key.column_keys, id=str(key.name))
    for table in METADATA.sorted_tables
    for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
    if _about_a_visitor(key.referred_table)
]


@pytest.mark.parametrize(("table", "columns"), REFERENCES)
def test_what_refers_to_rows_that_may_go_is_found_by_an_index(table: sa.Table, columns: list[str]) -> None:
    """Or each row that goes would be looked for in the whole table."""
    assert any(leading[: len(columns)] == columns for leading in _leading(table))


# faults


class _Broken(Exception):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.__dict__.update(parts)


def _fault(*, in_path: tuple[str, ...] = (), **parts: Any) -> Fault | None:
    """What PostgreSQL's error becomes."""
    driver = Exception()
    driver.__cause__ = _Broken(**parts)
    return fault_of(DBAPIError("INSERT INTO visits", None, driver), in_path)


def test_a_missing_parent_is_404_where_the_path_names_it_and_400_where_the_body_does() -> None:
    missing = _fault(constraint_name="checkins_service_id_fkey", in_path=("serviceId",))
    assert isinstance(missing, NotFound)
    invalid = _fault(constraint_name="checkins_service_id_fkey", in_path=("visitorId",))
    assert isinstance(invalid, Invalid)
    assert [(entry.code, entry.field) for entry in invalid.entries] == [("service_not_found", "serviceId")]


@pytest.mark.parametrize("table", ["visits", "checkins"])
def test_a_visitor_that_was_erased_since_is_404_whatever_named_it(table: str) -> None:
    missing = _fault(constraint_name=f"{table}_visitor_id_fkey")
    assert isinstance(missing, NotFound)
    assert (missing.code, missing.entries[0].field) == ("visitor_not_found", None)


def test_what_an_index_cannot_hold_is_too_long_and_what_is_unknown_a_bug() -> None:
    too_long = _fault(sqlstate="54000", constraint_name="visitors_first_name_idx")
    assert isinstance(too_long, Invalid)
    assert too_long.code == "too_long"
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
def test_folded_texts_have_neither_case_nor_accents(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_what_is_folded_stays_as_it_is(text: str) -> None:
    found = fold(text)
    assert found is not None
    assert fold(found) == found


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
def test_an_email_with_accents_has_a_folded_one_beside(email: str, folded: str) -> None:
    assert fold_beyond_mailbox(email) == folded
