"""Content types of requests, as the clients and frameworks of others write them."""

from functools import lru_cache

from topics.envelope import AVRO, JSON, InvalidMessage

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch"

_JSON = ("application/json", "text/json")
_AVRO = ("application/avro", "application/x-avro", "application/vnd.apache.avro", "avro/binary")
_UNSPECIFIC = ("", "text/plain", "application/octet-stream")
"""Types that say nothing about the format, and are the default of some frameworks. Dapr sends JSON as text/plain."""


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str:
    """The type without quotes and parameters, in lower case; empty if there is none. Spring's header mapper writes
    content types as JSON, in quotes."""
    return (content_type or "").strip().strip('"').partition(";")[0].strip().lower()


def format_of(content_type: str | None, value: bytes) -> str:
    """JSON or AVRO. Without a specific content type, the first byte decides: Confluent's wire format of Avro begins
    with a zero byte, and JSON never does. Raises InvalidMessage."""
    return _specified_format(content_type) or (AVRO if value.startswith(b"\0") else JSON)


@lru_cache(maxsize=256)
def _specified_format(content_type: str | None) -> str | None:
    """None if the content type is not specific. Raises InvalidMessage."""
    written = media_type(content_type)
    if written in _UNSPECIFIC:
        return None
    if written in _AVRO or written.endswith(("+avro", "avro+binary")):
        return AVRO
    if written in _JSON or written.endswith("+json"):
        return JSON
    raise InvalidMessage("unknown_content_type", f"The content type of a request must be {JSON} or {AVRO}.")
