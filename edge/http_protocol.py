"""HTTP/1.1 on a connection: uvicorn's httptools protocol with limits, and with errors in our format."""

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from edge import headers as http_headers
from schemas.faults import Fault, HeadersTooLarge, Invalid, TargetTooLong
from topics import json
from topics.envelope import JSON

TARGET_LIMIT = 65_536
"""Bytes of a request's target: the path with the query."""
HEADERS_LIMIT = 65_536
"""Bytes of all headers of a request."""
LINGER_SECONDS = 2.0
"""How long a refused connection is kept for the client to read the refusal. If the edge closed a connection on which
data arrives, the client's system would discard the refusal (RFC 9112, section 9.6)."""


class _Refused(Exception):
    """A request that the edge does not read further. The parser passes the exception on as an error of its own."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


class HttpProtocol(HttpToolsProtocol):
    """Refuses a target (414) and headers (431) that are too long, and what is not valid HTTP/1.1 (400). Then it closes
    the connection, because the next request cannot be told from the rest of the refused one."""

    _reads_headers = False
    _header_bytes = 0
    _offers_upgrade = False
    _is_refused = False

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
            if self._reads_headers:
                # A header that is not complete yet is in the parser's memory only.
                self._count_header_bytes(len(data))
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except _Refused as refused:
            self._refuse(refused.fault)
        except httptools.HttpParserError as error:
            raised = error.__context__
            self._refuse(raised.fault if isinstance(raised, _Refused) else _not_http())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reads_headers, self._header_bytes, self._offers_upgrade = True, 0, False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > TARGET_LIMIT:
            raise _Refused(TargetTooLong("target_too_long", f"A URL may have at most {TARGET_LIMIT} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_header_bytes(len(name) + len(value))

    def _count_header_bytes(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > HEADERS_LIMIT:
            message = f"The headers of a call may have at most {HEADERS_LIMIT} bytes."
            raise _Refused(HeadersTooLarge("headers_too_large", message))

    def on_headers_complete(self) -> None:
        self._check_headers()
        self._reads_headers = False
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

    def on_message_complete(self) -> None:
        if not self._offers_upgrade:
            super().on_message_complete()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again, without the offer to upgrade the connection, because httptools takes what follows
        for another protocol. Java's HTTP client offers HTTP/2 with each call. `rest` is the data after the headers."""
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in (b"upgrade", b"connection")]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", b""]) + rest)

    def _refuse(self, fault: Fault) -> None:
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.scope is not self.scope:
            # The previous request of the connection is not answered yet. Its answer closes the connection.
            self.cycle.keep_alive = False
            return
        is_answered = self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_started
        if not is_answered:
            self._write_refusal(fault)
        if self.cycle is not None:
            # The application may be reading a body that is malformed.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _write_refusal(self, fault: Fault) -> None:
        body = json.write(fault.body())
        fields = {
            **http_headers.OF_ALL_RESPONSES,
            **http_headers.OF_ALL_ANSWERS,
            "Content-Type": JSON,
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"{name}: {value}\r\n".encode() for name, value in fields.items()]
        self.transport.write(b"".join([STATUS_LINE[fault.status], *lines, b"\r\n", body]))


def _not_http() -> Invalid:
    return Invalid("not_http", "The request is not valid HTTP/1.1.")
