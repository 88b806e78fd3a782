"""Settings of the engine."""

from pydantic import BaseModel, Field


class EngineSettings(BaseModel):
    group: str = Field(
        "visitor-worker",
        description="Workers of a group share the work; its consumer groups end with .requests and .queries.",
    )
    session_seconds: float = Field(
        10.0, ge=1, le=30, description="Seconds after which a silent worker loses its partitions."
    )
    stall_seconds: float = Field(
        120.0, gt=0, description="Seconds without progress after which a worker exits with status 1."
    )
    failure_limit: float = Field(
        0.9, gt=0, le=1, description="Share of requests with a bug above which a worker exits; 1 switches this off."
    )
    reply_topics: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._*?\[\]!, -]*$",
        description="Topics that requests may name for their replies: patterns such as crm.*.replies, comma-separated.",
    )
    inbox_days: float = Field(
        9.0,
        gt=0,
        description="Days that answers are kept; longer than Kafka can deliver their requests again.",
    )

    @property
    def reply_topic_patterns(self) -> list[str]:
        return [pattern.strip() for pattern in self.reply_topics.split(",") if pattern.strip()]
