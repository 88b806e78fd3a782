"""The URLs in response headers: pages of a list, and the location of a new record."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agents.catalogue import Operation
from schemas.replies import PagingQuery, page_links
from topics import json

LENGTH_LIMIT = 4_096
"""Characters of a Link header. Proxies and clients refuse responses with long headers, for example nginx with more than
4 or 8 KiB."""


def header(operation: Operation, path: str, query: Mapping[str, Any], *, more: bool) -> dict[str, str]:
    """The `Link` header (RFC 8288) of a list, with the same links as `_links` in its body; no header if it would be too
    long. `query` are the parameters of the call."""
    model = operation.request.parts().get("query")
    limit = 0
    if model is not None and issubclass(model, PagingQuery):
        limit = query.get("limit", model.model_fields["limit"].default)
    links = page_links(path, dict(query), offset=query.get("offset", 0), limit=limit, more=more)
    value = ", ".join(f'<{url}>; rel="{relation}"' for relation, url in links.items())
    return {"Link": value} if len(value) <= LENGTH_LIMIT else {}


def location(reader: Operation, path_params: Mapping[str, str], body: bytes) -> str:
    """The path of a new record. Its parameters are those of the call, which are still encoded, or fields of the record
    in `body`."""
    record = json.read(body)["data"]
    values = {
        param: path_params[param] if param in path_params else quote(str(record[field]), safe="")
        for param, field in reader.key_fields.items()
    }
    return reader.path.format(**values)
