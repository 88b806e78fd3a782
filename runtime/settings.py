"""Settings from the environment: VISITOR_<GROUP>_<NAME>, for example VISITOR_KAFKA_BOOTSTRAP."""

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from agents.engine.settings import EngineSettings
from edge.settings import HttpSettings
from schemas.misconfigured import Misconfigured
from storage.settings import DatabaseSettings
from telemetry import traces
from topics import names
from topics.settings import KafkaSettings, SchemaRegistrySettings

PREFIX = "VISITOR_"


class WorkerSettings(EngineSettings):
    health_host: str = Field("127.0.0.1", description="Address to serve health and metrics on.")
    health_port: int = Field(8081, ge=0, le=65535, description="Port for health and metrics; 0 switches it off.")
    event_token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Key that signs event tokens, at least 32 characters; without it there are none.",
    )
    event_token_seconds: int = Field(3600, ge=1, description="Seconds that an event token is valid.")


class DevSettings(BaseModel):
    kafka_port: int = Field(9092, ge=1, le=65535, description="Port of the embedded Kafka.")
    visits_per_second: float = Field(5.0, gt=0, le=10_000, description="Passages of the simulated gateways per second.")


class LogSettings(BaseModel):
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, console, or auto: console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")
    audit: str | None = Field(None, description="File of the audit log, or stdout; without it, there is none.")


class Settings(BaseSettings):
    # Compose passes an optional variable that is not set as an empty one.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1, env_ignore_empty=True
    )

    home: Path = Field(Path(".visitor"), description="Directory of the data and the downloads of `visitor dev`.")
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    dev: DevSettings = DevSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _tls_files_are_usable(self) -> Self:
        self.kafka.ssl_context()
        return self

    @model_validator(mode="after")
    def _inbox_outlives_requests(self) -> Self:
        """A request that is redelivered after its answer was deleted would be applied twice."""
        lifetime = names.request_lifetime(self.kafka) / timedelta(days=1)
        if self.worker.inbox_days < lifetime:
            raise ValueError(
                f"VISITOR_WORKER_INBOX_DAYS is {self.worker.inbox_days:g}, but with VISITOR_KAFKA_RETENTION_DAYS="
                f"{self.kafka.retention_days:g} Kafka can deliver a request for {lifetime:.2f} days. Raise the first"
                " setting or lower the second."
            )
        return self


class WrongSetting(Misconfigured):
    """The message names each wrong setting and what is expected."""


def load() -> Settings:
    """The settings of this process. Raises WrongSetting."""
    if wrong := traces.wrong_setting():
        raise WrongSetting(wrong)
    unknown = [name for name in os.environ if name.startswith(PREFIX) and name not in known()]
    if unknown:
        raise WrongSetting("\n".join(_unknown_message(name) for name in sorted(unknown)))
    try:
        return Settings()
    except ValidationError as error:
        raise WrongSetting("\n".join(_wrong_message(item["loc"], item["msg"]) for item in error.errors())) from None


class Setting(NamedTuple):
    """The documentation of an environment variable. `default` is empty if it has none."""

    default: str
    meaning: str


def known() -> Mapping[str, Setting]:
    """All settings, by the names of their environment variables."""
    return dict(_variables())


def _variables() -> Iterator[tuple[str, Setting]]:
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            for group_name, group_field in group.model_fields.items():
                yield f"{PREFIX}{name}_{group_name}".upper(), _setting(group_field)
        else:
            yield f"{PREFIX}{name}".upper(), _setting(field)


def _setting(field: FieldInfo) -> Setting:
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return Setting("" if default is None else str(default), field.description or "")


def _unknown_message(name: str) -> str:
    matches = get_close_matches(name, known(), n=1)
    if matches:
        return f"{name} is not a setting; did you mean {matches[0]}?"
    return f"{name} is not a setting. The settings are: {', '.join(known())}"


def _wrong_message(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = f"{PREFIX}{'_'.join(map(str, location))}".upper()
    return f"{name}: {message[0].lower()}{message[1:]}"
