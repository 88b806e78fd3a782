"""Settings of the connection to PostgreSQL. The command line loads them at each start, so this module imports no
driver."""

from pydantic import BaseModel, Field, SecretStr


class DatabaseSettings(BaseModel):
    url: SecretStr = Field(
        SecretStr("postgresql+asyncpg://visitor@localhost:5432/visitor"),
        description="URL of PostgreSQL, with libpq's parameters for TLS, such as `?sslmode=verify-full`.",
    )
    connections: int = Field(2, ge=1, description="Connections of a worker for requests.")
    query_connections: int = Field(4, ge=1, description="Connections of a worker for reads.")
    transaction_pooling: bool = Field(
        False, description="Set it to true behind a pooler in transaction mode, for example PgBouncer."
    )
