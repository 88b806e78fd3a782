"""The HTTP edge: an ASGI application. `edge.calls` answers the calls of operations, `edge.pages` serves the pages."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

import structlog
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.catalogue import Catalogue
from edge import answers, asyncapi, openapi, pages, routing
from edge import headers as http_headers
from edge.authentication import Authentication
from edge.callers import UNTIL_SENT, Callers
from edge.calls import STORED_ANSWERS, Calls
from edge.http_protocol import WRITE_BUFFER
from edge.registry import Registry
from edge.reply_router import ReplyRouter
from edge.routing import Resource, Routes
from edge.schema_directory import SchemaDirectory
from edge.settings import HttpSettings
from schemas.faults import BUG, Fault, Forbidden, MethodNotAllowed, NotFound
from telemetry import event_loop, garbage, traces
from telemetry.metrics import READY
from topics.settings import KafkaSettings
from topics.supervision import Supervisor

log = structlog.get_logger(__name__)

START_SECONDS = 5.0
"""How long an edge waits for Kafka before it listens, so that it refuses no call when it is restarted. If Kafka needs
longer, the edge listens, and says that it is not ready."""


class Mounted(Protocol):
    """An application that answers all calls of `path` and below it."""

    path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def run(self) -> None:
        """What it does in the background, until cancelled."""


class Edge:
    """The HTTP application and its connection to Kafka. When the edge can no longer work, it sets `failure` to the
    reason and calls `ended`. `mount` makes an application that is served beside the operations. `is_stopping` says that
    the server will soon take no more calls."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: HttpSettings,
        catalogue: Catalogue,
        ended: Callable[[], None],
        mount: Callable[[Authentication], Mounted] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.failure: BaseException | None = None
        self._ended = ended
        self._is_stopping = is_stopping
        self._router = ReplyRouter(kafka, settings.reply_partition, self._fail)
        self._authentication = Authentication(settings, catalogue.families)
        self._mounted = None if mount is None else mount(self._authentication)
        self._supervisor = Supervisor(self._fail)
        self._routes = self._create_routes(catalogue, kafka, settings)
        self._lifespan = Router(lifespan=self._started)
        self.asgi: ASGIApp = _reporting_bugs(self._serve)
        """The application to serve."""
        if settings.allowed_origins:
            self.asgi = _with_cors(self.asgi, settings.allowed_origins)
        self.asgi = _Boundary(self.asgi, any_host=settings.authenticates)

    def _create_routes(self, catalogue: Catalogue, kafka: KafkaSettings, settings: HttpSettings) -> Routes:
        routes = Routes()
        callers = Callers(settings)
        calls = Calls(catalogue, settings, self._authentication, callers, self._router)
        for operation in catalogue.operations:
            routes.add(operation.method, operation.path, calls.endpoint(operation))
        routes.add("GET", STORED_ANSWERS, calls.stored_answers)
        for method, path, endpoint in _registry(catalogue, self._authentication, callers, calls).routes():
            routes.add(method, path, endpoint)
        if settings.docs:
            _add_docs(routes, catalogue, kafka, settings)
        routes.add("GET", "/health", self._health)
        routes.add("GET", "/health/live", self._live)
        return routes

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if self._mounted is not None and f"{scope['path']}/".startswith(f"{self._mounted.path}/"):
            await self._mounted(scope, receive, send)
            return
        with ExitStack() as until_sent:
            scope[UNTIL_SENT] = until_sent
            response = await self._respond(Request(scope, receive))
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        match = self._routes.find(routing.normalize(request.scope["raw_path"]))
        if match is None:
            return answers.of_fault(NotFound("route_not_found", "This path does not exist."))
        # The server omits the body of an answer to HEAD.
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = match.resource.endpoints.get(method)
        if endpoint is None:
            return _without_endpoint(method, match.resource)
        request.scope["path_params"] = match.path_params
        return await endpoint(request)

    @asynccontextmanager
    async def _started(self, app: object) -> AsyncIterator[None]:
        """The server listens when this has yielded."""
        async with self.running(app):
            with suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await self._router.wait_until_ready()
            yield

    @asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """While the server runs: read replies, and the keys of callers when they change."""
        self._router.start()
        READY.set_function(lambda: not self._reasons())
        self._supervisor.start("event loop delay", event_loop.measure_delay())
        self._supervisor.start("garbage", garbage.collect_regularly())
        self._supervisor.start("keys", self._authentication.keys.watch())
        if self._authentication.issuer is not None:
            self._supervisor.start("issuer", self._authentication.issuer.watch())
        if self._mounted is not None:
            self._supervisor.start("mounted application", self._mounted.run())
        try:
            # Here, since uvicorn ends the process with the signal that stopped the server.
            with traces.exported("visitor-edge"):
                yield
        finally:
            await self._supervisor.stop()
            await self._router.stop()

    def _fail(self, task: str, error: BaseException) -> None:
        log.critical("edge_failed", task=task, error=type(error).__name__, reason=str(error), exc_info=error)
        self.failure = self.failure or error
        self._ended()

    async def _live(self, _: Request) -> Response:
        if self.failure is None:
            return answers.of_data(200, {"status": "live"})
        return answers.of_data(503, {"status": "failed", "reason": type(self.failure).__name__})

    async def _health(self, _: Request) -> Response:
        reasons = self._reasons()
        if reasons:
            return answers.of_data(503, {"status": "not ready", "reasons": reasons})
        return answers.of_data(200, {"status": "ready"})

    def _reasons(self) -> dict[str, str]:
        """Why proxies should send this edge no calls."""
        if self._is_stopping():
            return {"stop": "the edge is stopping"}
        return {} if self._router.ready else {"kafka": "no connection"}


def _registry(catalogue: Catalogue, authentication: Authentication, callers: Callers, calls: Calls) -> Registry:
    async def read_after(position: int) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = await calls.ask("schemas.list", {"query": {"after": position}})
        return answer

    return Registry(SchemaDirectory(catalogue.topic_of_record, read_after), authentication, callers)


def _add_docs(routes: Routes, catalogue: Catalogue, kafka: KafkaSettings, settings: HttpSettings) -> None:
    describe = partial(openapi.describe, catalogue, with_keys=settings.authenticates)
    for path, page in pages.create(describe, settings.examples).items():
        routes.add("GET", path, page.serve)
    for path, topics_page in pages.create_topics(partial(asyncapi.describe, catalogue, kafka)).items():
        routes.add("GET", path, topics_page.serve)
    routes.add("GET", "/", pages.create_index(with_console=settings.console).serve)


def _without_endpoint(method: str, resource: Resource) -> Response:
    """The answer to OPTIONS, and to a method that the path does not have."""
    fields = {"Allow": routing.allowed_methods(resource.endpoints)}
    if method == "OPTIONS":
        return Response(status_code=204, headers=fields)
    return answers.of_fault(MethodNotAllowed("method_not_allowed", "Use a method that the Allow header lists."), fields)


def _reporting_bugs(app: ASGIApp) -> ASGIApp:
    """An application that logs an unexpected exception and answers in JSON; `Calls` does so for the operations."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_noted(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await app(scope, receive, send_noted)
        except ClientDisconnect:
            raise
        except Exception:
            if scope["type"] != "http" or has_started:
                raise
            log.exception("bug", call_id=scope[http_headers.CALL_ID])
            await answers.of_fault(BUG)(scope, receive, send)

    return serve


def _with_cors(app: ASGIApp, origins: list[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=http_headers.OF_SCRIPTS,
        expose_headers=http_headers.FOR_SCRIPTS,
    )


_LOOPBACK_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", re.IGNORECASE)
_CALL_ID = http_headers.CALL_ID.encode()
_VALID_CALL_ID = re.compile(rb"[A-Za-z0-9._~+/=:-]{1,128}")


class _Boundary:
    """What holds for every call: it has an id for logs, and its response has the headers of all responses.

    With `any_host=False`, calls whose Host header does not name loopback are refused, and those that a proxy forwards.
    An edge without API keys listens on loopback only, but a web page could resolve its own host name to loopback (DNS
    rebinding) and call the edge from a developer's browser, and a proxy on this machine would let everybody in."""

    def __init__(self, app: ASGIApp, *, any_host: bool) -> None:
        self._app = app
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call_headers = dict(scope["headers"])
        call_id = call_headers.get(_CALL_ID, b"")
        if not _VALID_CALL_ID.fullmatch(call_id):
            call_id = b"%032x" % random.getrandbits(128)
        scope[http_headers.CALL_ID] = call_id.decode()
        added = [*_OF_ALL_RESPONSES, (_CALL_ID, call_id)]
        # The caller waits for "100 Continue", which the server sends when the application reads the body.
        awaits_continue = call_headers.get(b"expect", b"").lower() == b"100-continue"

        async def receive_body() -> Message:
            nonlocal awaits_continue
            awaits_continue = False
            return await receive()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
                if awaits_continue:
                    # The caller may or may not send the body after this refusal, so that the connection cannot be used
                    # for another call (RFC 9110, section 10.1.1).
                    message["headers"].append((b"connection", b"close"))
            elif len(message.get("body", b"")) > WRITE_BUFFER and not message.get("more_body", False):
                # The server takes the next part when the client has read this one, so that the call lasts until then.
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}
            await send(message)

        app = self._app
        if not self._any_host and (fault := _not_of_this_machine(call_headers)):
            app = answers.of_fault(fault)
        with suppress(ClientDisconnect):  # Nobody waits for an answer.
            await app(scope, receive_body, send_with_headers)


def _not_of_this_machine(call_headers: Mapping[bytes, bytes]) -> Fault | None:
    if not _LOOPBACK_HOST.fullmatch(call_headers.get(b"host", b"")):
        return Forbidden("unknown_host", "Without API keys, call the service as localhost, 127.0.0.1 or [::1].")
    if call_headers.keys() & _FORWARDED:
        message = (
            "Without API keys, the service is for this machine only. Set VISITOR_HTTP_KEYS before you use a proxy."
        )
        return Forbidden("forwarded", message)
    return None


_FORWARDED = {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
"""Headers that proxies add."""
_OF_ALL_RESPONSES = [(name.lower().encode(), value.encode()) for name, value in http_headers.OF_ALL_RESPONSES.items()]
