"""The schema registry under `/registry`: the read API of Confluent's Schema Registry
(https://docs.confluent.io/platform/current/schema-registry/develop/api.html), which stock serializers and
deserializers use. Schemas are registered by the releases of the service, not through this API."""

import base64
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from edge import bodies, refusals
from edge import headers as http_headers
from edge.authentication import Authentication
from edge.callers import UNTIL_SENT, Callers
from edge.headers import CALL_ID
from edge.identity import Identity
from edge.routing import Endpoint
from edge.schema_directory import SchemaDirectory, Version
from schemas.faults import BUG, Fault, Unauthorized

log = structlog.get_logger(__name__)

PREFIX = "/registry"
MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
"""The schema of an id never changes."""
BODY_LIMIT = 64 * 2**10
"""Bytes of a body with a schema. The largest schema of the service has 12 kB in a body, 41 kB with indents. Parsing
takes about a millisecond per 10 kB, in which the edge does nothing else."""
COMPATIBILITY = "FULL_TRANSITIVE"
_NUMBER = re.compile("[0-9]{1,10}")
"""Ids and versions are 32-bit integers. `int` refuses texts with thousands of digits."""


class RegistryError(Exception):
    """An error answer, with the error codes of Confluent's API."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Registry:
    """The endpoints of the registry. If API keys are configured, each call needs one: as a bearer token, or as the
    password of Basic authentication, which is all that some clients can send. Its calls count like those of
    operations."""

    def __init__(self, directory: SchemaDirectory, authentication: Authentication, callers: Callers) -> None:
        self._directory = directory
        self._authentication = authentication
        self._callers = callers

    def routes(self) -> Iterator[tuple[str, str, Endpoint]]:
        """Method, path and endpoint of each route."""
        endpoints: list[tuple[str, str, Callable[[Request], Awaitable[Any]]]] = [
            ("GET", "", self._root),
            ("GET", "/schemas/types", self._types),
            ("GET", "/schemas/ids/{id}", self._schema),
            ("GET", "/schemas/ids/{id}/schema", self._schema_text),
            ("GET", "/schemas/ids/{id}/subjects", self._subjects_of_schema),
            ("GET", "/schemas/ids/{id}/versions", self._versions_of_schema),
            ("GET", "/subjects", self._subjects),
            ("POST", "/subjects/{subject}", self._look_up),
            ("GET", "/subjects/{subject}/versions", self._versions),
            ("POST", "/subjects/{subject}/versions", self._register),
            ("GET", "/subjects/{subject}/versions/{version}", self._version),
            ("GET", "/subjects/{subject}/versions/{version}/schema", self._version_text),
            ("GET", "/subjects/{subject}/versions/{version}/referencedby", self._referenced_by),
            ("GET", "/config", self._config),
            ("GET", "/config/{subject}", self._config),
            ("GET", "/mode", self._mode),
            ("GET", "/mode/{subject}", self._mode),
            # Confluent's newer clients ask for it first; an answer of 404 means that there is none.
            ("GET", "/associations/resources/{namespace}/{topic}", self._no_association),
            # The paths of Apicurio's own API that its converter for Kafka Connect (v2) and its serializers (v3) use.
            ("GET", "/apis/registry/{api}/ids/{kind}/{id}", self._schema_text),
            ("GET", "/apis/registry/{api}/ids/{kind}/{id}/references", self._references),
            ("GET", "/apis/registry/v3/groups/default/artifacts/{subject}/versions/{version}", self._artifact),
        ]
        for method, path, endpoint in endpoints:
            yield method, PREFIX + path, self._answered(endpoint)

    def _answered(self, endpoint: Callable[[Request], Awaitable[Any]]) -> Endpoint:
        async def answer(request: Request) -> Response:
            identity = None
            fields: dict[str, str] = {}
            try:
                identity = self._identify(request)
                self._callers.count(identity, fields)
                in_flight = self._callers.in_flight(identity)
                request.state.held = request.scope[UNTIL_SENT].enter_context(in_flight)
                result = await endpoint(request)
            except RegistryError as error:
                return _json({"error_code": error.code, "message": str(error)}, error.status, fields)
            except Fault as fault:
                refusals.log("registry", identity, fault)
                return _of_fault(fault, fields)
            except ClientDisconnect:
                raise
            except Exception:
                log.exception("bug", operation="registry", call_id=request.scope[CALL_ID])
                return _of_fault(BUG, fields)
            response = result if isinstance(result, Response) else _json(result)
            response.headers.update(fields)
            return response

        return answer

    def _identify(self, request: Request) -> Identity:
        """Raises Unauthorized, Unavailable."""
        authorization = request.headers.get("authorization", "")
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "basic":
            authorization = f"Bearer {_password(credentials)}"
        return self._authentication.identify(authorization)

    async def _root(self, _: Request) -> Any:
        return {}

    async def _types(self, _: Request) -> Any:
        return ["AVRO"]

    async def _schema(self, request: Request) -> Response:
        return _json({"schema": await self._text(request)}, headers=IMMUTABLE)

    async def _schema_text(self, request: Request) -> Response:
        return Response(await self._text(request), media_type=MEDIA_TYPE, headers=IMMUTABLE)

    async def _text(self, request: Request) -> str:
        schema = await self._directory.schema(_schema_id(request))
        if schema is None:
            raise RegistryError(404, 40403, "Schema not found")
        return schema.text

    async def _subjects_of_schema(self, request: Request) -> Any:
        return [version.subject for version in await self._versions_with_schema(request)]

    async def _versions_of_schema(self, request: Request) -> Any:
        versions = await self._versions_with_schema(request)
        return [{"subject": version.subject, "version": version.number} for version in versions]

    async def _versions_with_schema(self, request: Request) -> list[Version]:
        versions = await self._directory.versions_of(_schema_id(request))
        if not versions:
            raise RegistryError(404, 40403, "Schema not found")
        return versions

    async def _subjects(self, request: Request) -> Any:
        prefix = request.query_params.get("subjectPrefix", "")
        return [subject for subject in await self._directory.subjects() if subject.startswith(prefix)]

    async def _versions(self, request: Request) -> Any:
        return [version.number for version in await self._of_subject(request)]

    async def _of_subject(self, request: Request) -> list[Version]:
        subject = _parameter(request, "subject")
        versions = await self._directory.versions(subject)
        if not versions:
            raise RegistryError(404, 40401, f"Subject '{subject}' not found. GET {PREFIX}/subjects lists all subjects.")
        return versions

    async def _version(self, request: Request) -> Any:
        return _described(await self._requested_version(request))

    async def _version_text(self, request: Request) -> Response:
        return Response((await self._requested_version(request)).schema.text, media_type=MEDIA_TYPE)

    async def _referenced_by(self, request: Request) -> Any:
        await self._requested_version(request)
        return []

    async def _requested_version(self, request: Request) -> Version:
        versions, number = await self._of_subject(request), _parameter(request, "version")
        if number in ("latest", "-1"):
            return versions[-1]
        if not _NUMBER.fullmatch(number):
            raise RegistryError(422, 42202, "The version must be a positive 32-bit number or 'latest'.")
        if not 1 <= int(number) <= len(versions):
            raise RegistryError(404, 40402, f"Version {number} not found.")
        return versions[int(number) - 1]

    async def _look_up(self, request: Request) -> Any:
        return _described(await self._matching_version(request))

    async def _register(self, request: Request) -> Any:
        """A serializer registers its schema before it writes. A schema of the service is registered already."""
        try:
            return {"id": (await self._matching_version(request)).schema.id}
        except RegistryError as error:
            if error.code != 40403:
                raise
            message = "This registry is read-only. Use a schema of the service; GET /subjects lists them."
            raise RegistryError(422, 42205, message) from None

    async def _matching_version(self, request: Request) -> Version:
        text = await _schema_in_body(request)
        try:
            version = await self._directory.version_of(_parameter(request, "subject"), text)
        except ValueError as error:
            raise RegistryError(422, 42201, f"Invalid schema: {error}") from error
        if version is None:
            raise RegistryError(404, 40403, "Schema not found")
        return version

    async def _no_association(self, _: Request) -> Any:
        raise RegistryError(404, 404, "This topic has no associated subject.")

    async def _references(self, request: Request) -> Any:
        await self._text(request)
        return []

    async def _artifact(self, request: Request) -> Any:
        """The newest version of a subject as Apicurio's API describes it."""
        if _parameter(request, "version") != "branch=latest":
            raise RegistryError(404, 404, "Only the version branch=latest is available.")
        version = (await self._of_subject(request))[-1]
        return {
            "groupId": "default",
            "artifactId": version.subject,
            "version": str(version.number),
            "globalId": version.schema.id,
            "contentId": version.schema.id,
            "artifactType": "AVRO",
            "state": "ENABLED",
            "createdOn": "1970-01-01T00:00:00Z",
            "owner": "",
        }

    async def _config(self, _: Request) -> Any:
        return {"compatibilityLevel": COMPATIBILITY}

    async def _mode(self, _: Request) -> Any:
        return {"mode": "READONLY"}


def _parameter(request: Request, name: str) -> str:
    """Path parameters are still percent-encoded."""
    return unquote(request.path_params[name])


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # Also that of text which is not ASCII.
        return ""


def _schema_id(request: Request) -> int:
    text = _parameter(request, "id")
    if not _NUMBER.fullmatch(text):
        raise RegistryError(404, 40403, "Schema not found")
    return int(text)


async def _schema_in_body(request: Request) -> str:
    """Raises RegistryError, TooLarge, RateLimited, Unavailable, ClientDisconnect."""
    try:
        body = json.loads(await bodies.read(request, BODY_LIMIT, request.state.held))
    except (ValueError, RecursionError):
        raise RegistryError(422, 42201, "The body must be JSON.") from None
    schema_type, text = (body.get("schemaType", "AVRO"), body.get("schema")) if isinstance(body, dict) else ("", None)
    if schema_type != "AVRO" or not isinstance(text, str):
        raise RegistryError(422, 42201, 'The body must be {"schema": "…"} with an Avro schema as JSON.')
    return text


def _described(version: Version) -> dict[str, Any]:
    return {
        "subject": version.subject,
        "version": version.number,
        "id": version.schema.id,
        "schemaType": "AVRO",
        "schema": version.schema.text,
    }


def _of_fault(fault: Fault, fields: dict[str, str]) -> Response:
    message = fault.entries[0].message
    if isinstance(fault, Unauthorized):
        return _json({"error_code": 40101, "message": message}, 401, {"WWW-Authenticate": 'Basic realm="registry"'})
    headers = {**http_headers.BY_STATUS.get(fault.status, {}), **fields}
    return _json({"error_code": fault.status * 100 + 1, "message": message}, fault.status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status, headers, media_type=MEDIA_TYPE)
