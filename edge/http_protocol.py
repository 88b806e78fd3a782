"""HTTP/1.1 on a connection: uvicorn's httptools protocol with limits of size, time and number, and with errors in our
format."""

import asyncio
import time

import httptools
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from edge import headers as http_headers
from schemas.faults import Fault, HeadersTooLarge, Invalid, RateLimited, RequestTimeout, TargetTooLong, Unavailable
from telemetry.metrics import HTTP_REFUSED_CONNECTIONS, HTTP_TIMEOUTS
from topics import json
from topics.envelope import JSON

log = structlog.get_logger(__name__)

HEADERS_SECONDS = 10.0
"""The time limit for the headers of a request, and for the first byte of a new connection."""
REQUEST_SECONDS = 30.0
"""The time limit for the rest of a request after its headers: a body of at most 1 MiB."""
WRITE_SECONDS = 30.0
"""How long a client may take nothing of what waits for it in the edge."""
WRITE_BUFFER = 16 * 2**10
"""Bytes of an answer that a connection buffers. With more, the call waits for the client. There may be thousands of
connections."""
WATCH_SECONDS = 1.0
"""Interval of the checks of these limits. A timer per request would cost more."""
LOG_SECONDS = 10.0
"""Shortest interval of two log lines about connections that were refused or closed."""
TARGET_LIMIT = 65_536
"""Bytes of a request's target: the path with the query."""
HEADERS_LIMIT = 65_536
"""Bytes of all headers and trailers of a request."""
HEADER_COUNT_LIMIT = 200
"""Headers and trailers of a request. The objects of a tiny one take 23 times its bytes."""
UNFINISHED_LIMIT = 16 * 2**20
"""Bytes of all headers that are not complete yet, on all connections together. Most headers arrive in one piece."""
UNFINISHED_ALLOWANCE = 16 * 2**10
"""Bytes of headers that are not complete yet that a connection may always have, so that few large headers refuse no
small ones. All connections together have at most UNFINISHED_LIMIT, and UNFINISHED_ALLOWANCE of each."""
PIECE = 4 * 2**10
"""Bytes that are parsed before those of headers that are not complete are counted."""
LINGER_SECONDS = 2.0
"""How long a refused connection is kept for the client to read the refusal. If the edge closed a connection on which
data arrives, the client's system would discard the refusal (RFC 9112, section 9.6). The same holds for the rest of a
request that is answered already."""
PIPELINE_LIMIT = 16
"""Requests of a connection that wait for their turn. 256 kB of them, which arrive at once, take 11 MB."""
LINGERING_LIMIT = 100
"""How many connections beyond the limit of connections are kept for their refusal. They need file descriptors, of which
`runtime.edge_process` reserves some. Further ones are closed at once."""


class _Refused(Exception):
    """A request that the edge does not read further. The parser passes the exception on as an error of its own."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


class Unfinished:
    """Headers that are not complete yet: their bytes on all connections."""

    count = 0


class RareLog:
    """Logs what happens many times with one line in LOG_SECONDS."""

    def __init__(self) -> None:
        self._count = 0
        self._logged_at = -LOG_SECONDS

    def warning(self, event: str, **fields: object) -> None:
        """`count` of the line is how often this was called since the last line."""
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning(event, count=self._count, **fields)
            self._count, self._logged_at = 0, now


class _RefusedConnections:
    """The connections beyond the limit: `lingering` are those that are kept for their refusal."""

    def __init__(self) -> None:
        self.lingering: set[HttpProtocol] = set()
        self._log = RareLog()

    def note(self, limit: int) -> None:
        HTTP_REFUSED_CONNECTIONS.inc()
        self._log.warning("connections_refused", limit=limit, setting="VISITOR_HTTP_CONNECTIONS")


class HttpProtocol(HttpToolsProtocol):
    """Refuses a target (414) and headers (431) that are too long, what is not valid HTTP/1.1 (400), and what does not
    arrive in time (408). Then it closes the connection, because the next request cannot be told from the rest of the
    refused one. uvicorn's `limit_concurrency` is the number of connections from which on new ones are refused (503)."""

    refused_connections = _RefusedConnections()
    unfinished = Unfinished()
    _timer: asyncio.TimerHandle | None = None
    _receive_deadline: float | None = None
    """When the current request must be complete, or the next one begin. None while the edge answers, and while an idle
    connection is kept, for which uvicorn has its own timer."""
    _write_deadline: float | None = None
    """When the client must have taken more of what waits for it. None while nothing waits."""
    _waiting_bytes = 0
    """How much waited for the client at the last check."""
    _answered_cycle: RequestResponseCycle = None  # type: ignore[assignment]
    """The request that the application answers now, or answered last. Other requests wait in `pipeline`."""
    _reads_headers = False
    _reads_trailers = False
    """A chunk has begun, but not its content: the last one has none, and trailers may follow it."""
    _header_bytes = 0
    _header_count = 0
    _unfinished_bytes = 0
    """The part of this connection in `unfinished`."""
    _offers_upgrade = False
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(WRITE_BUFFER)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._refuse_connection(self.limit_concurrency - 1)
            return
        self._receive_deadline = self.loop.time() + HEADERS_SECONDS
        self._timer = self.loop.call_later(WATCH_SECONDS, self._watch)

    def _refuse_connection(self, limit: int) -> None:
        self._is_refused = True
        self.connections.discard(self)
        self.refused_connections.note(limit)
        self._write_refusal(Unavailable("too_many_connections", "Try again in a moment."))
        if len(self.refused_connections.lingering) < LINGERING_LIMIT:
            self.refused_connections.lingering.add(self)
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self.refused_connections.lingering.discard(self)
        self._finish_headers()
        if self._timer is not None:
            self._timer.cancel()
        # uvicorn keeps this timer, and with it the connection in memory, if the client has reset the connection.
        self._unset_keepalive_if_required()
        self._disconnect_calls()
        super().connection_lost(exc)

    def _disconnect_calls(self) -> None:
        """Tell the application that the client has left. uvicorn tells it for the last request of a pipeline only."""
        for cycle in (self._answered_cycle, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _watch(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(WATCH_SECONDS, self._watch)
        self._move_write_deadline(now)
        if self.flow.read_paused and self._receive_deadline is not None:
            # The edge does not read now: the client is not to blame.
            self._receive_deadline = max(self._receive_deadline, now + HEADERS_SECONDS)
        if self._write_deadline is not None and now >= self._write_deadline:
            HTTP_TIMEOUTS.inc()
            self.transport.abort()
        elif self._receive_deadline is not None and now >= self._receive_deadline and not self._is_refused:
            HTTP_TIMEOUTS.inc()
            self._receive_deadline = None
            self._end_slow_request()

    def _move_write_deadline(self, now: float) -> None:
        """Also while the connection is being closed: the transport closes it when the client has taken everything."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            self._write_deadline = None
        elif waiting < self._waiting_bytes or self._write_deadline is None:
            self._write_deadline = now + WRITE_SECONDS
        self._waiting_bytes = waiting

    def _end_slow_request(self) -> None:
        reads_body = self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body
        if self._reads_headers or reads_body:
            message = (
                f"Send the headers within {HEADERS_SECONDS:.0f} and the body within {REQUEST_SECONDS:.0f} seconds."
            )
            self._refuse(RequestTimeout("request_timeout", message))
        else:
            self.transport.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        # The client has taken nearly everything, whatever the application writes before the next check.
        self._write_deadline = None

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(memoryview(data))
        except _Refused as refused:
            self._refuse(refused.fault)
        except httptools.HttpParserError as error:
            raised = error.__context__
            self._refuse(raised.fault if isinstance(raised, _Refused) else _not_http())
        is_idle = self._receive_deadline is None and (self.cycle is None or self.cycle.response_complete)
        if is_idle and self.timeout_keep_alive_task is None:
            # Blank lines between two requests, which have stopped uvicorn's timer for idle connections.
            self._receive_deadline = self.loop.time() + HEADERS_SECONDS

    def _parse(self, data: memoryview) -> None:
        # The parser does not say where in the data a request begins. In small pieces, little of what is before it is
        # counted for its headers.
        while data:
            piece, data = data[:PIECE], data[PIECE:]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(b"".join([self._without_upgrade(), piece[upgrade.args[0] :], data]))
                self.parser = self._new_parser()
            if self._reads_headers or self._reads_trailers:
                # A header that is not complete yet is in the parser's memory only.
                self._count_unfinished(len(piece))
        self._check_unfinished()

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # As uvicorn does: what follows the last request of a connection does not make that request invalid.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._reads_headers, self._offers_upgrade = True, False
        self._header_bytes = self._header_count = 0
        self._receive_deadline = self.loop.time() + HEADERS_SECONDS

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > TARGET_LIMIT:
            raise _Refused(TargetTooLong("target_too_long", f"A URL may have at most {TARGET_LIMIT} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        self._header_count += 1
        if self._header_bytes > HEADERS_LIMIT or self._header_count > HEADER_COUNT_LIMIT:
            raise _Refused(_headers_too_large())
        if self._reads_headers:
            # A trailer is no header of the call (RFC 9110, section 6.5.1): it could pass a check, or give a key.
            super().on_header(name, value)

    def _count_unfinished(self, count: int) -> None:
        self._unfinished_bytes += count
        self.unfinished.count += count

    def _check_unfinished(self) -> None:
        # The framing of headers is counted, too, and at first a part of a piece that belongs to an earlier request.
        if self._unfinished_bytes > TARGET_LIMIT + HEADERS_LIMIT + 2 * PIECE:
            raise _Refused(_headers_too_large())
        if self.unfinished.count > UNFINISHED_LIMIT and self._unfinished_bytes > UNFINISHED_ALLOWANCE:
            raise _Refused(Unavailable("edge_full", "Too many calls have sent parts of their headers. Try again."))

    def _finish_headers(self) -> None:
        self.unfinished.count -= self._unfinished_bytes
        self._unfinished_bytes = 0

    def on_headers_complete(self) -> None:
        self._finish_headers()
        self._check_headers()
        if len(self.pipeline) >= PIPELINE_LIMIT:
            raise _Refused(RateLimited("too_many_calls", "Wait for the answers to the calls of this connection."))
        self._reads_headers = False
        self._receive_deadline = self.loop.time() + REQUEST_SECONDS
        self._offers_upgrade = self.parser.should_upgrade()
        if not self._offers_upgrade:
            super().on_headers_complete()

    def _check_headers(self) -> None:
        """Refuse what the parser accepts although RFC 9112 forbids it: not exactly one Host (section 3.2), a transfer
        coding other than chunked (section 6.1), and CONNECT, which is for proxies."""
        names = [name for name, _ in self.headers]
        has_one_host = names.count(b"host") == 1 or (self.parser.get_http_version() == "1.0" and b"host" not in names)
        codings = {value.lower() for name, value in self.headers if name == b"transfer-encoding"}
        if not has_one_host or not codings <= {b"chunked"} or self.parser.get_method() == b"CONNECT":
            raise _Refused(_not_http())

    def on_chunk_header(self) -> None:
        self._reads_trailers = True

    def on_body(self, body: bytes) -> None:
        self._end_trailers()
        super().on_body(body)

    def _end_trailers(self) -> None:
        if self._reads_trailers:
            self._reads_trailers = False
            self._finish_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.scope is self.scope:
            self._forget_request()
        is_answered = self.cycle.response_complete and not self._reads_headers
        if self._receive_deadline is not None and is_answered:
            self._receive_deadline = min(self._receive_deadline, self.loop.time() + LINGER_SECONDS)

    def _forget_request(self) -> None:
        """An idle connection would keep it until its next one: 128 KiB of headers and 250 kB of a body that nobody has
        read, on each of thousands of connections."""
        self.cycle.body = bytearray()
        self._forget_headers()
        self.scope["path"], self.scope["raw_path"], self.scope["query_string"] = "", b"", b""

    def _forget_headers(self) -> None:
        if self.headers:
            self.headers.clear()  # The scope has the same list.
        self.url = b""

    def on_message_complete(self) -> None:
        self._end_trailers()
        self._receive_deadline = None
        if self._offers_upgrade:
            return
        super().on_message_complete()
        if self.cycle.response_complete:
            # The rest of a request that was answered early has stopped uvicorn's timer for idle connections.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _without_upgrade(self) -> bytes:
        """The headers of the request again, without the offer to upgrade the connection, because httptools takes what
        follows for another protocol. Java's HTTP client offers HTTP/2 with each call."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, fault: Fault) -> None:
        self._is_refused = True
        self._finish_headers()
        if self.pipeline and self.pipeline[0][0].scope is self.scope:
            # The application does not have the refused request yet, since it answers earlier ones.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered_cycle
        # Thousands of refused connections may linger, each with up to 128 KiB of which the parser has a part.
        self.parser = self._new_parser()
        if self.cycle is None or self.cycle.scope is not self.scope or self.cycle.response_complete:
            self._forget_headers()
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.scope is not self.scope:
            # The previous request of the connection is not answered yet. Its answer closes the connection.
            self.cycle.keep_alive = False
            return
        is_answered = self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_started
        if not is_answered:
            self._write_refusal(fault)
        if self.cycle is not None:
            # The application may be reading a body that is malformed.
            self.cycle.waiting_for_100_continue = False
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._linger()

    def _write_refusal(self, fault: Fault) -> None:
        body = json.write(fault.body())
        fields = {
            **http_headers.OF_ALL_RESPONSES,
            **http_headers.OF_ALL_ANSWERS,
            **http_headers.BY_STATUS.get(fault.status, {}),
            "Content-Type": JSON,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"{name}: {value}\r\n".encode() for name, value in fields.items()]
        self.transport.write(b"".join([STATUS_LINE[fault.status], *lines, b"\r\n", body]))


def _headers_too_large() -> HeadersTooLarge:
    message = f"A call may have at most {HEADERS_LIMIT // 2**10} KiB and {HEADER_COUNT_LIMIT} headers."
    return HeadersTooLarge("headers_too_large", message)


def _not_http() -> Invalid:
    return Invalid("not_http", "The request is not valid HTTP/1.1.")
