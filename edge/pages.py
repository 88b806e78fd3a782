"""The pages for people: Swagger UI, Redoc and a viewer for AsyncAPI, and the documents that they show. They load
nothing from other hosts."""

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from edge import codings, conditional, examples
from edge.openapi import Document
from topics import json
from topics.envelope import JSON

DOCS = "/docs"

_HERE = Path(__file__).parent
_ASSET_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_EMPTY_IMAGE = b"data:image/svg+xml,<svg/>"
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline';"
    " worker-src 'self' blob:; frame-ancestors 'none'"
)
"""Content-Security-Policy: the libraries make style elements, and Redoc searches in a worker made from a blob."""


class Page:
    """A file that never changes while the edge runs. Browsers ask whether it has changed before they use their copy."""

    def __init__(self, content: bytes, media_type: str, policy: str = _POLICY) -> None:
        """`policy` is the Content-Security-Policy."""
        self._content = content
        self._media_type = media_type
        self._policy = policy
        self._compressed: bytes | None = None
        self._tag = conditional.tag_of_content(content)

    async def serve(self, request: Request) -> Response:
        fields = {
            "ETag": self._tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": self._policy,
            "Vary": "Accept-Encoding",
        }
        if conditional.is_cached(self._tag, request.headers.getlist("if-none-match")):
            return Response(None, 304, fields)
        if not codings.is_worth_compressing(self._content, request.headers.get("accept-encoding", "")):
            return Response(self._content, headers=fields, media_type=self._media_type)
        if self._compressed is None:
            self._compressed = await asyncio.to_thread(codings.compress, self._content)
        fields |= {"Content-Encoding": codings.GZIP, "ETag": conditional.tag_of_compressed(self._tag)}
        return Response(self._compressed, headers=fields, media_type=self._media_type)


class DocumentPage:
    """The OpenAPI document. It is made again when the file with the ids of its examples has changed."""

    def __init__(self, describe: Callable[..., Document], sample: Path | None) -> None:
        self._describe = describe
        self._sample = sample
        self._ids = examples.read_sample(sample)
        self._page = self._make()

    def _make(self) -> Page:
        return Page(json.write(self._describe(sample=json.read(self._ids.encode()))), JSON)

    async def serve(self, request: Request) -> Response:
        ids = examples.read_sample(self._sample)
        if ids != self._ids:
            self._ids = ids
            self._page = self._make()
        return await self._page.serve(request)


class LazyPage:
    """A page that is made when it is first asked for."""

    def __init__(self, make: Callable[[], Page]) -> None:
        self._make = make
        self._page: Page | None = None

    async def serve(self, request: Request) -> Response:
        if self._page is None:
            self._page = await asyncio.to_thread(self._make)
        return await self._page.serve(request)


def create_topics(describe: Callable[[], Document]) -> dict[str, Page | LazyPage]:
    """The pages about Kafka's topics by their paths. `describe` makes the AsyncAPI document."""
    viewer = _file_of("asyncapi_viewer", "asyncapi-viewer.iife.js").read_bytes()
    return {
        "/asyncapi": Page((_HERE / "asyncapi.html").read_bytes(), "text/html"),
        "/asyncapi.json": LazyPage(lambda: Page(json.write(describe()), JSON)),
        "/static-offline-docs/asyncapi-viewer.js": Page(viewer, "text/javascript"),
    }


def create_index(*, with_console: bool) -> Page:
    """The page at `/`, which leads to the others."""
    console = (
        b'<li><a href="/console">Console</a>: what happens now, for operators; with the'
        b' <a href="/console/docs/runbook.md">runbook</a></li>'
    )
    content = (_HERE / "index.html").read_bytes()
    return Page(content.replace(b"<!-- console -->", console if with_console else b""), "text/html")


def create(describe: Callable[..., Document], sample: Path | None) -> dict[str, Page | DocumentPage]:
    """The pages by their paths. `describe` makes the OpenAPI document, with the ids in the file `sample`."""
    return {
        DOCS: Page((_HERE / "docs.html").read_bytes(), "text/html"),
        "/redoc": Page((_HERE / "redoc.html").read_bytes(), "text/html"),
        "/openapi.json": DocumentPage(describe, sample),
        **{f"/static-offline-docs/{name}": Page(_asset(name), media_type) for name, media_type in _ASSET_TYPES.items()},
    }


def _asset(name: str) -> bytes:
    """A file of fastapi-offline, which has releases of both libraries."""
    # Redoc shows its logo from another host. An empty image replaces it.
    return _file_of("fastapi_offline", name).read_bytes().replace(_REDOC_LOGO, _EMPTY_IMAGE)


def _file_of(package: str, name: str) -> Path:
    """A static file of a package, which is found without importing it."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static" / name
