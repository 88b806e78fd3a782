"""Settings of the HTTP edge."""

from pathlib import Path

from pydantic import BaseModel, Field


class HttpSettings(BaseModel):
    host: str = Field("127.0.0.1", description="Address to listen on; another than loopback needs VISITOR_HTTP_KEYS.")
    port: int = Field(8080, ge=1, le=65535)
    keys: Path | None = Field(None, description="File with the hashes of API keys; `visitor key` makes its entries.")
    timeout_seconds: float = Field(10.0, gt=0, description="How long a call waits for its answer before it gets 504.")
    in_flight: int = Field(512, ge=1, description="Calls of one caller that may wait at once; more get 429.")
    reply_partition: int | None = Field(
        None, ge=0, description="Partition of visitor.replies; by default one by chance, which edges may share."
    )
