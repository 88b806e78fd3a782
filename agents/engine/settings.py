"""What operators set of a worker."""

from pydantic import BaseModel, Field, SecretStr

from storage.tx import Signing


class WorkerSettings(BaseModel):
    group: str = Field(
        "visitor-worker",
        description="Workers of one group share the work; Kafka's groups are it with .requests and .queries.",
    )
    session_seconds: float = Field(10.0, ge=1, le=30, description="A silent worker loses its partitions after so long.")
    health_port: int = Field(8081, ge=0, le=65535, description="Loopback port of health and metrics; 0 for none.")
    stall_seconds: float = Field(120.0, gt=0, description="A worker that makes no progress for so long ends itself.")
    failure_limit: float = Field(
        0.9, gt=0, le=1, description="The worker stops where more than this share of requests fails; 1: never."
    )
    inbox_days: float = Field(
        9.0,
        gt=0,
        description="How long answers are kept; longer than Kafka can deliver their requests again.",
    )
    event_token_secret: SecretStr | None = Field(
        None, min_length=32, description="What event tokens are signed with; without one there are none."
    )
    event_token_seconds: int = Field(3600, ge=1, description="How long an event token holds.")

    def signing(self) -> Signing | None:
        secret = self.event_token_secret
        return None if secret is None else Signing(secret.get_secret_value(), self.event_token_seconds)
