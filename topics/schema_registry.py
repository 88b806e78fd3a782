"""A company's schema registry with Confluent's API (Confluent, Apicurio's ccompat, Redpanda, Karapace)."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from topics import http_answers
from topics.avro import LARGEST_ID, Schema, full_name, schema_text
from topics.settings import SchemaRegistrySettings

TIMEOUT = 10.0
"""Seconds for one request to the registry, with its answer."""
FULL_TRANSITIVE = "FULL_TRANSITIVE"
"""Each version of a subject can read, and be read by, all other versions."""
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


def subject_of(topic: str, schema: Schema) -> str:
    """The subject of a schema of the service: the topic and the full name of the record."""
    return f"{topic}-{full_name(schema)}"


class RegistryUnavailable(Exception):
    """The registry does not answer, refuses a request, or answers something else than a registry does. The message says
    which request, and why."""


class SchemaRegistry:
    """A client of the registry. Every method raises RegistryUnavailable."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        auth = None
        if settings.username is not None:
            password = settings.password.get_secret_value() if settings.password else ""
            auth = httpx.BasicAuth(settings.username, password)
        verify = ssl.create_default_context(cafile=settings.cafile) if settings.cafile else True
        self._client = httpx.AsyncClient(
            base_url=str(settings.url).rstrip("/") + "/", auth=auth, verify=verify, timeout=TIMEOUT
        )

    async def register(self, subject: str, schema: Schema) -> int:
        """Register a schema under a subject, unless it is registered already. Returns its id."""
        path = f"subjects/{_quoted(subject)}/versions"
        answer = await self._request("POST", path, {"schema": schema_text(schema)})
        with _understood("POST", path):
            assigned = int(answer["id"])
            if not 0 <= assigned <= LARGEST_ID:
                raise ValueError(f"the id {assigned} is not a positive 32-bit integer")
            return assigned

    async def is_registered(self, subject: str, schema: Schema) -> bool:
        """True if `register` would not change the registry. Needs no right to write."""
        path = f"subjects/{_quoted(subject)}"
        answer = await self._request("POST", path, {"schema": schema_text(schema)}, absent_is_none=True)
        return answer is not None

    async def require_compatibility(self, subject: str, level: str) -> None:
        """Let the registry refuse versions of the subject that are not compatible."""
        await self._request("PUT", f"config/{_quoted(subject)}", {"compatibility": level})

    async def compatibility(self, subject: str) -> str | None:
        """The level that `require_compatibility` has set; None if the subject has none of its own."""
        path = f"config/{_quoted(subject)}"
        answer = await self._request("GET", path, absent_is_none=True)
        return None if answer is None else answer.get("compatibilityLevel")

    async def schema(self, schema_id: int) -> Schema | None:
        """The schema with this id; None if the registry has none that is Avro."""
        path = f"schemas/ids/{schema_id}"
        answer = await self._request("GET", path, absent_is_none=True)
        if answer is None or answer.get("schemaType", "AVRO") != "AVRO":
            return None
        with _understood("GET", path):
            try:
                schema = json.loads(answer["schema"])
            except RecursionError:  # A registry may accept a schema that is nested more deeply than we can read.
                return None
        return schema if isinstance(schema, dict) else None

    async def close(self) -> None:
        await self._client.aclose()

    async def _request(self, method: str, path: str, body: Any = None, *, absent_is_none: bool = False) -> Any:
        headers = {"Accept": _CONTENT_TYPE} | ({} if body is None else {"Content-Type": _CONTENT_TYPE})
        content = None if body is None else json.dumps(body)
        with _understood(method, path):
            answer = await http_answers.request(self._client, method, path, TIMEOUT, content=content, headers=headers)
            if absent_is_none and answer.status == HTTPStatus.NOT_FOUND:
                return None
            if httpx.codes.is_success(answer.status):
                return _object(json.loads(answer.content))
        reason = answer.content[:200].decode(errors="replace")
        raise RegistryUnavailable(f"schema registry: {method} {path}: status {answer.status}: {reason}")


@contextmanager
def _understood(method: str, path: str) -> Iterator[None]:
    """Raises RegistryUnavailable, which names the request, if there is no answer, or one without the expected form."""
    try:
        yield
    except (httpx.HTTPError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RegistryUnavailable(f"schema registry: {method} {path}: {type(error).__name__}: {error}") from error


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError("the answer is no JSON object")
    return answer


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
