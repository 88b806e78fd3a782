"""Settings of the HTTP edge."""

from pathlib import Path

from pydantic import BaseModel, Field


class HttpSettings(BaseModel):
    host: str = Field(
        "127.0.0.1", description="Address to listen on. An address other than loopback requires VISITOR_HTTP_KEYS."
    )
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    keys: Path | None = Field(None, description="File with the hashes of API keys; `visitor key` prints its entries.")
    timeout_seconds: float = Field(
        10.0, gt=0, description="Seconds that a call waits for its answer before the edge answers 504."
    )
    in_flight: int = Field(512, ge=1, description="Maximum of calls in flight of one caller; further calls get 429.")
    reply_partition: int | None = Field(
        None, ge=0, description="Partition of visitor.replies to read; random by default. Edges may share a partition."
    )
