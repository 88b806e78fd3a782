"""URLs of PostgreSQL, as people write them."""

import pytest

from schemas.misconfigured import Misconfigured
from storage.database import connect
from storage.settings import DatabaseSettings


def _connect(url: str) -> str:
    """The URL of the engine, without the password."""
    return str(connect(DatabaseSettings.model_validate({"url": url}), connections=1).url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://visitor:s3cr3t@db:port/visitor",
        "host=db dbname=x password=s3cr3t",
        "mysql://visitor:s3cr3t@db/visitor",
        "postgresql+psycopg://visitor:s3cr3t@db/visitor",
        "postgresql://visitor:s3cr3t@db/visitor?connect_timeout=s3cr3t",
        "",
    ],
)
def test_a_url_that_cannot_be_used_is_a_wrong_setting_and_does_not_show_its_password(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        _connect(url)
    message = str(refused.value)
    assert message.startswith("VISITOR_DATABASE_URL: ")
    assert "\n" not in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://visitor:se/cr#t?x=1@db/visitor", "db"),
        ("postgres://visitor@db:5433/visitor?sslmode=require&target_session_attrs=primary", "db:5433"),
        ("postgresql+asyncpg://visitor@db/visitor?prepared_statement_cache_size=0", "db"),
    ],
)
def test_a_url_may_have_the_scheme_and_the_parameters_of_libpq(url: str, host: str) -> None:
    assert f"@{host}/visitor" in _connect(url)
