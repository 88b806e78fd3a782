"""Settings of the HTTP edge."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, field_validator, model_validator


class HttpSettings(BaseModel):
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. One other than loopback requires VISITOR_HTTP_KEYS or an issuer of tokens.",
    )
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    metrics_host: str = Field("127.0.0.1", description="Address to serve the metrics on.")
    metrics_port: int = Field(8082, ge=0, le=65535, description="Port for the metrics; 0 switches them off.")
    docs: bool = Field(True, description="Whether to serve /docs, /redoc, /asyncapi and the documents that they show.")
    console: bool = Field(
        False, description="Whether to serve /console to operators; the edge then needs VISITOR_DATABASE_URL, too."
    )
    keys: Path | None = Field(None, description="File with the hashes of API keys; `visitor key` prints its entries.")
    oidc_issuer: str | None = Field(None, description="URL of the OpenID Connect issuer whose tokens identify callers.")
    oidc_audience: str | None = Field(None, description="Audience that tokens must have: the name of this API there.")
    oidc_scopes_claim: str = Field("scope", description="Claim of tokens with the scopes, a text or a list.")
    oidc_jwks_url: str | None = Field(
        None, description="URL of the issuer's keys; by default the one that its discovery document names."
    )
    examples: Path | None = Field(
        None, description="File with the ids of records for the examples in /docs; `visitor dev` writes it."
    )
    connections: int = Field(
        4000, ge=1, description="Maximum of open connections; further ones get 503. Each needs a file descriptor."
    )
    timeout_seconds: float = Field(
        10.0, gt=0, description="Seconds that a call waits for its answer before the edge answers 504."
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        description="Seconds for which an edge still takes calls after SIGTERM, so that proxies notice that it stops.",
    )
    in_flight: int = Field(512, ge=1, description="Maximum of calls in flight of one caller; further calls get 429.")
    reads_at_once: int = Field(
        32, ge=1, description="Maximum of reads of one caller that the workers have at once; further reads wait."
    )
    rate: int = Field(
        200,
        ge=1,
        description="Calls per second of one caller, over 10 seconds; the `rate` of an API key goes before it.",
    )
    reply_partition: int | None = Field(
        None, ge=0, description="Partition of visitor.replies to read; random by default. Edges may share a partition."
    )
    cors_origins: str = Field(
        "",
        description="Web origins whose scripts may call the edge, comma-separated, or * for all; none by default.",
    )

    @property
    def authenticates(self) -> bool:
        """True if callers must identify themselves."""
        return self.keys is not None or self.oidc_issuer is not None

    @model_validator(mode="after")
    def _issuer_has_audience(self) -> Self:
        """Without an audience, tokens that the issuer made for other services would be valid here."""
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("VISITOR_HTTP_OIDC_AUDIENCE is required with VISITOR_HTTP_OIDC_ISSUER")
        return self

    @model_validator(mode="after")
    def _lets_not_every_page_in(self) -> Self:
        """Without keys, any web page that a developer opens could read and change everything."""
        if "*" in self.allowed_origins and not self.authenticates:
            raise ValueError("VISITOR_HTTP_CORS_ORIGINS=* needs VISITOR_HTTP_KEYS or VISITOR_HTTP_OIDC_ISSUER")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _split(value):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is not an origin like https://app.example:8443")
        return value

    @property
    def allowed_origins(self) -> list[str]:
        """The entries of `cors_origins`."""
        return _split(self.cors_origins)


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+")


def _split(origins: str) -> list[str]:
    return [origin.strip() for origin in origins.split(",") if origin.strip()]
