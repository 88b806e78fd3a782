"""What operators set of a worker."""

from pydantic import BaseModel, Field, SecretStr

from storage.tx import Signing


class WorkerSettings(BaseModel):
    group: str = Field(
        "visitor-worker",
        description="Workers of a group share the work; its consumer groups end with .requests and .queries.",
    )
    session_seconds: float = Field(
        10.0, ge=1, le=30, description="Seconds after which a silent worker loses its partitions."
    )
    health_port: int = Field(
        8081, ge=0, le=65535, description="Loopback port for health and metrics; 0 switches it off."
    )
    stall_seconds: float = Field(
        120.0, gt=0, description="Seconds without progress after which a worker exits with status 1."
    )
    failure_limit: float = Field(
        0.9, gt=0, le=1, description="Share of failing messages above which a worker exits; 1 switches this off."
    )
    inbox_days: float = Field(
        9.0,
        gt=0,
        description="Days that answers are kept; longer than Kafka can deliver their requests again.",
    )
    event_token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Key that signs event tokens, at least 32 characters; without it there are none.",
    )
    event_token_seconds: int = Field(3600, ge=1, description="Seconds that an event token is valid.")

    def signing(self) -> Signing | None:
        secret = self.event_token_secret
        return None if secret is None else Signing(secret.get_secret_value(), self.event_token_seconds)
