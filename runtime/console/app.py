"""The endpoints of the console. The page and its files are for everybody, since they have no data; the data is for
callers with the scope `operator`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from edge import answers, bodies, refusals, scopes
from edge.authentication import Authentication
from edge.callers import Callers
from edge.identity import Identity
from edge.pages import LazyPage, Page
from runtime.console import documentation, letters
from runtime.console.feed import Feed
from runtime.console.letters import Query, Selection
from runtime.console.request_trace import Traces
from runtime.console.servers import searching_kafka, writing
from runtime.console.timeline import Timelines
from runtime.console.topic_list import TopicList
from runtime.consume import Values
from runtime.dead_letters import DeadLetters, NoSuchDeadLetter
from runtime.settings import Settings
from schemas.faults import (
    Bug,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    RateLimited,
    Unavailable,
    UnsupportedMediaType,
)
from storage.database import connect
from topics import audit, json
from topics.dead_letters import Position
from topics.envelope import JSON, InvalidMessage
from topics.names import DEAD_LETTERS
from topics.schema_registry import SchemaRegistry

log = structlog.get_logger(__name__)

PATH = "/console"
SEARCHES = 2
"""Searches in Kafka that run at once. Each may read tens of thousands of messages."""
TURN_SECONDS = 30.0
"""How long a search or a replay waits for others."""
STREAMS = 32
"""Pages that follow the live state at once."""
STREAMS_OF_CALLER = 8
"""Those of one caller."""
BODY_LIMIT = 64 * 2**10
STOP_CHECK_SECONDS = 1.0
"""How soon the streams end when the edge stops, and when their caller may not see them any more."""

_STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page."""

Parameters = TypeVar("Parameters", bound=BaseModel)
Endpoint = Callable[[Request, Identity], Awaitable[Any]]


class TraceQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # PostgreSQL has no NUL.
    id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400, pattern=r"^[^\x00]*$")]
    minutes: int = Field(15, ge=1, le=7 * 24 * 60)


class TimelineQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: Annotated[AwareDatetime | None, Field(description="The time of the consents; now by default.")] = None
    hours: int = Field(24, ge=1, le=28 * 24)


class Console:
    """The console of an edge. `is_stopping` says that the edge waits for its connections to end."""

    path = PATH

    def __init__(self, settings: Settings, authentication: Authentication, is_stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._authentication = authentication
        self._is_stopping = is_stopping
        self._callers = Callers(settings.http)
        self._feed = Feed(settings)
        self._reads = connect(settings.database, connections=2, read_only=True)
        self._writes = connect(settings.database, connections=1)
        self._registry = SchemaRegistry(settings.schema_registry) if settings.schema_registry.url else None
        self._values = Values(self._registry)
        self._traces = Traces(settings.kafka, self._reads, self._values)
        self._timelines = Timelines(settings.kafka, self._reads, self._values)
        self._letters = DeadLetters(settings, partial(writing, self._writes))
        self._topics = TopicList(settings.kafka)
        self._searches = asyncio.Semaphore(SEARCHES)
        self._replaying = asyncio.Semaphore()
        self._streams: Counter[str] = Counter()
        """By caller."""
        self._router: ASGIApp = Router(self._routes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def run(self) -> None:
        """What the console does in the background, until cancelled."""
        try:
            await self._feed.run()
        finally:
            await self._reads.dispose()
            await self._writes.dispose()
            if self._registry is not None:
                await self._registry.close()

    def _routes(self) -> list[Route]:
        endpoints: dict[tuple[str, str], Endpoint] = {
            ("GET", "session"): self._session,
            ("GET", "requests"): self._request,
            ("GET", "visitors/{visitor_id}"): self._visitor,
            ("GET", "dead-letters"): self._dead_letters,
            ("GET", "dead-letters/{position}"): self._dead_letter,
            ("POST", "dead-letters/plan"): self._plan,
            ("POST", "dead-letters/replay"): self._replay,
            ("GET", "topics"): self._topic_list,
            ("GET", "schemas/{schema_id:int}"): self._schema,
        }
        return [
            Route(f"{PATH}/", _redirect),
            *(Route(path, page.serve) for path, page in _pages().items()),
            *(
                Route(f"{PATH}/api/{path}", self._guarded(endpoint), methods=[method])
                for (method, path), endpoint in endpoints.items()
            ),
            Route(f"{PATH}/api/events", self._guarded(self._events)),
            Route(f"{PATH}/{{rest:path}}", _not_found),
        ]

    def _guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint for operators. What `endpoint` returns is the JSON of its answer, or a response."""

        async def answer(request: Request) -> Response:
            fields: dict[str, str] = {}
            identity = None
            try:
                identity = self._authentication.identify(request.headers.get("authorization"))
                self._callers.count(identity, fields)
                _require_operator(identity)
                _require_own_page(request)
                data = await endpoint(request, identity)
                return data if isinstance(data, Response) else _of_data(request, data, fields)
            except Fault as fault:
                refusals.log(f"console.{_first_step(request)}", identity, fault, via="console")
                return answers.of_fault(fault, fields)
            except ClientDisconnect:
                raise
            except Exception:
                log.exception("bug", operation="console", path=request.scope["route"].path)
                return answers.of_fault(Bug("internal", "The console failed unexpectedly. See the log of the edge."))

        return answer

    async def _session(self, _: Request, identity: Identity) -> Any:
        return {"caller": identity.name, "signedIn": self._settings.http.authenticates}

    async def _events(self, request: Request, identity: Identity) -> Response:
        if self._streams[identity.source] >= STREAMS_OF_CALLER or self._streams.total() >= STREAMS:
            message = f"At most {STREAMS_OF_CALLER} of your pages, and {STREAMS} in all, can follow the live state."
            raise RateLimited("too_many_streams", f"{message} Close some.")
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(request, identity), media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request, identity: Identity) -> AsyncIterator[bytes]:
        """Server-sent events with the live state. A comment keeps the connection while there is no event."""
        self._streams[identity.source] += 1
        states = self._feed.watch()
        try:
            following = asyncio.ensure_future(anext(states))
            while not self._is_stopping() and self._may_follow(request):
                done, _ = await asyncio.wait([following], timeout=STOP_CHECK_SECONDS)
                if done:
                    yield b"data: " + json.write(following.result()) + b"\n\n"
                    following = asyncio.ensure_future(anext(states))
                else:
                    yield b":\n\n"
        finally:
            self._streams -= Counter((identity.source,))
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await states.aclose()  # type: ignore[attr-defined]

    def _may_follow(self, request: Request) -> bool:
        """False if the key of the caller was revoked or has expired meanwhile."""
        try:
            _require_operator(self._authentication.identify(request.headers.get("authorization")))
        except Fault:
            return False
        return True

    async def _request(self, request: Request, identity: Identity) -> Any:
        query = _parse(TraceQuery, dict(request.query_params))
        async with _turn(self._searches, request):
            trace = await self._traces.find(query.id, query.minutes)
        _audit(identity, "console.request", {visitor for each in trace.answered for visitor in each.visitor_ids})
        return trace.model_dump()

    async def _visitor(self, request: Request, identity: Identity) -> Any:
        try:
            visitor_id = UUID(request.path_params["visitor_id"])
        except ValueError:
            raise Invalid("not_a_uuid", "Send the id of a visitor, a UUID.", field="visitorId") from None
        query = _parse(TimelineQuery, dict(request.query_params))
        _audit(identity, "console.visitor", {visitor_id})
        async with _turn(self._searches, request):
            timeline = await self._timelines.find(visitor_id, query.at or datetime.now(UTC), query.hours)
        return timeline.model_dump()

    async def _dead_letters(self, request: Request, _: Identity) -> Any:
        query = _parse(Query, dict(request.query_params))
        async with _turn(self._searches, request), searching_kafka():
            return await letters.listing(self._letters, query)

    async def _dead_letter(self, request: Request, _: Identity) -> Any:
        try:
            position = Position.parse(request.path_params["position"])
        except ValueError:
            raise Invalid("not_a_position", "Send the id of a dead letter, <partition>:<offset>.") from None
        async with _turn(self._searches, request), searching_kafka():
            return await self._detail(position)

    async def _detail(self, position: Position) -> Any:
        """Raises NotFound, KafkaError."""
        try:
            return await letters.detail(self._letters, position, self._values)
        except NoSuchDeadLetter:
            raise NotFound("dead_letter_not_found", f"There is no dead letter at {position}.") from None

    async def _plan(self, request: Request, _: Identity) -> Any:
        selection = await _body(request)
        async with _turn(self._searches, request), searching_kafka():
            return await letters.plan(self._letters, selection, self._settings.worker.inbox_days)

    async def _replay(self, request: Request, identity: Identity) -> Any:
        selection = await _body(request)

        def note(ids: Sequence[str]) -> None:
            for position in ids:
                _audit(identity, "deadLetters.replay", via=f"{DEAD_LETTERS}:{position}")
            log.info("dead_letters_replayed", count=len(ids), caller=identity.source)

        # One after the other, so that two operators do not send the same message.
        async with _turn(self._replaying, request), searching_kafka():
            return {"replayed": await letters.replay(self._letters, selection, note)}

    async def _topic_list(self, _: Request, __: Identity) -> Any:
        return {"topics": self._topics.topics}

    async def _schema(self, request: Request, _: Identity) -> Any:
        schema = self._topics.schemas.get(request.path_params["schema_id"])
        if schema is None:
            raise NotFound("schema_not_found", "This release has no schema with this id.")
        return schema


@asynccontextmanager
async def _turn(semaphore: asyncio.Semaphore, request: Request) -> AsyncIterator[None]:
    """Wait until it is the request's turn, and drop it if its browser has left by then. Raises Unavailable,
    ClientDisconnect."""
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await semaphore.acquire()
    except TimeoutError:
        raise Unavailable("busy", "Other operators search or replay now. Try again in a moment.") from None
    try:
        if await request.is_disconnected():
            raise ClientDisconnect
        yield
    finally:
        semaphore.release()


def _pages() -> dict[str, Page | LazyPage]:
    """The page, its files and the documentation, by their paths."""
    files = {
        f"{PATH}/static/{file.name}": Page(file.read_bytes(), _MEDIA_TYPES[file.suffix], _POLICY)
        for file in _STATIC.iterdir()
    }
    return {PATH: files[f"{PATH}/static/index.html"], **files, **documentation.create(f"{PATH}/docs", _POLICY)}


def _require_operator(identity: Identity) -> None:
    """Raises Forbidden."""
    identity.require_scopes(frozenset((scopes.OPERATOR,)))
    if identity.territory is not None:
        raise Forbidden("not_restricted", "Callers that are restricted to centers may not use the console.")


def _require_own_page(request: Request) -> None:
    """Refuse calls of other web pages, which a browser would send from the operator's machine: without API keys, the
    edge knows the operator by the machine only. Raises Forbidden."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("other_origin", "Only the console's own page may call this.")


async def _body(request: Request) -> Selection:
    """Raises UnsupportedMediaType, TooLarge, Invalid, ClientDisconnect."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
        raise UnsupportedMediaType("unsupported_media_type", f"Send {JSON}.")
    body = await bodies.read(request, BODY_LIMIT)
    try:
        return _parse(Selection, json.read(body))
    except InvalidMessage as error:
        raise Invalid("not_json", str(error)) from None


def _parse(model: type[Parameters], values: Any) -> Parameters:
    """Raises Invalid."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Invalid("invalid", f"{field}: {first['msg']}", field=field or None) from None


def _of_data(request: Request, data: Any, fields: dict[str, str]) -> Response:
    return answers.of_json(200, json.write(data), fields, request.headers.get("accept-encoding", ""))


def _audit(identity: Identity, operation: str, visitors: set[UUID] | None = None, via: str = "console") -> None:
    if audit.is_enabled():
        audit.write(caller=identity.source, operation=operation, visitors=visitors or (), status=200, via=via)


def _first_step(request: Request) -> str:
    """The first step of the path below the console's API."""
    path: str = request.scope["path"]
    return path.removeprefix(f"{PATH}/api/").partition("/")[0]


async def _redirect(_: Request) -> Response:
    return RedirectResponse(PATH)


async def _not_found(_: Request) -> Response:
    return answers.of_fault(NotFound("route_not_found", "This path does not exist."))
