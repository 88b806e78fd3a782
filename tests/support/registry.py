"""A schema registry with the part of Confluent's API that the service uses. It assigns ids from 1 on."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote


class Registry:
    """Serves from `start` to `stop`, again and again, on the same port and with the same schemas."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        """The texts of all schemas; the id is the position, from 1 on."""
        self.subjects: dict[str, set[int]] = {}
        self.compatibility: dict[str, str] = {}
        self.authorizations: set[str | None] = set()
        self.refused: set[str] = set()
        """The paths, by their last or first part (`versions`, `config`), that the user may not write."""
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # keeps connections open

            def _answer(self) -> None:
                if registry.is_stopped:  # a connection that is still open
                    self.close_connection = True
                    return
                registry.authorizations.add(self.headers["authorization"])
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                status, answer = registry.answer(self.command, unquote(self.path), json.loads(body or b"null"))
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = _answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.is_stopped = False
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.is_stopped = True
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        written = {"POST": path.rpartition("/")[2], "PUT": path.split("/")[1]}
        if written.get(method) in self.refused:
            return 403, {"error_code": 40301, "message": "User is denied operation Write"}
        if match := re.fullmatch(r"/subjects/(.+)/versions", path):
            return 200, {"id": self.register(match[1], body["schema"])}
        if match := re.fullmatch(r"/subjects/(.+)", path):
            return self._look_up(match[1], body["schema"])
        if match := re.fullmatch(r"/config/(.+)", path):
            if method == "PUT":
                self.compatibility[match[1]] = body["compatibility"]
                return 200, body
            if level := self.compatibility.get(match[1]):
                return 200, {"compatibilityLevel": level}
        match = re.fullmatch(r"/schemas/ids/(\d+)", path)
        if match and 0 < int(match[1]) <= len(self.schemas):
            return 200, {"schema": self.schemas[int(match[1]) - 1]}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def _look_up(self, subject: str, schema: str) -> tuple[int, Any]:
        for schema_id in self.subjects.get(subject, ()):
            if self.schemas[schema_id - 1] == schema:
                return 200, {"subject": subject, "id": schema_id, "schema": schema}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def register(self, subject: str, schema: str) -> int:
        if schema not in self.schemas:
            self.schemas.append(schema)
        schema_id = self.schemas.index(schema) + 1
        self.subjects.setdefault(subject, set()).add(schema_id)
        return schema_id
