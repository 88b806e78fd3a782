"""Creates missing topics, and compares the configuration of existing topics with the required one."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from topics.kafka import close_admin
from topics.names import TopicSpec, record_lifetime
from topics.settings import KafkaSettings

STALE_SECONDS = 5.0
"""How long a broker may describe a configuration that was just altered."""


@dataclass(frozen=True)
class Difference:
    """A setting of an existing topic whose actual value differs from the required one."""

    topic: str
    setting: str
    required: str
    actual: str


@dataclass(frozen=True)
class Report:
    """What `ensure` did. `altered` are the topics whose configuration it changed. `differences` remain."""

    created: Sequence[str]
    altered: Sequence[str]
    differences: Sequence[Difference]


async def ensure(settings: KafkaSettings, specs: Sequence[TopicSpec], *, alter: bool = False) -> Report:
    """Create missing topics. With `alter`, set the required configuration of existing topics; their partitions and
    replicas stay as they are. Raises KafkaError if the broker refuses."""
    async with _connected(settings) as admin:
        created = await _create(admin, await _missing(admin, specs))
        existing = [spec for spec in specs if spec.name not in created]
        differences = await _differences(admin, existing)
        if not alter:
            return Report(created, [], differences)
        altered = await _alter(admin, existing, differences)
        return Report(created, altered, await _remaining(admin, existing, altered))


async def compare(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> tuple[list[str], list[Difference]]:
    """The names of the missing topics, and the differences of the others. Changes nothing. Raises KafkaError."""
    async with _connected(settings) as admin:
        missing = {spec.name for spec in await _missing(admin, specs)}
        return sorted(missing), await _differences(admin, [spec for spec in specs if spec.name not in missing])


async def record_lifetimes(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, timedelta | None]:
    """How long Kafka can deliver a record of each topic; None if Kafka keeps the records without a limit. Raises
    KafkaError, for example if the client is not allowed to read the configuration."""
    async with _connected(settings) as admin:
        configs = await _configs(admin, topics)
    return {topic: _lifetime(config) for topic, config in configs.items()}


def _lifetime(config: Mapping[str, str]) -> timedelta | None:
    retention = timedelta(milliseconds=int(config["retention.ms"]))
    segment = timedelta(milliseconds=int(config["segment.ms"]))
    if retention < timedelta(0) or "delete" not in config["cleanup.policy"]:
        return None
    return record_lifetime(retention, segment)


async def missing_topics(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> list[str]:
    """The names of the required topics that do not exist."""
    async with _connected(settings) as admin:
        return [spec.name for spec in await _missing(admin, specs)]


@asynccontextmanager
async def _connected(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**settings.client())
    try:
        await admin.start()
        yield admin
    finally:
        await close_admin(admin)


async def _missing(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[TopicSpec]:
    existing_names = set(await admin.list_topics())
    return [spec for spec in specs if spec.name not in existing_names]


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[str]:
    """Create topics and return their names. A topic that another process has created in the meantime is skipped."""
    if not specs:
        return []
    response = await admin.create_topics(
        [NewTopic(spec.name, spec.partitions, spec.replication, topic_configs=spec.config) for spec in specs]
    )
    created = []
    for name, code, *rest in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            continue
        if code:
            message = rest[0] if rest else ""
            raise for_code(code)(f"the broker did not create the topic {name}: {message}")
        created.append(name)
    return created


_DYNAMIC_TOPIC_CONFIG = 1
"""The source of a setting that was set for the topic itself (Kafka's protocol guide, DescribeConfigs)."""


async def _alter(
    admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], differences: Iterable[Difference]
) -> list[str]:
    """Set the required configuration of the topics that differ. AlterConfigs resets all settings that a request leaves
    out, and aiokafka has no IncrementalAlterConfigs. So the request repeats the other settings of each topic."""
    differing = {difference.topic for difference in differences if difference.setting not in _UNALTERABLE}
    altered = [spec for spec in specs if spec.name in differing]
    if not altered:
        return []
    topic_configs = await _configs(admin, [spec.name for spec in altered], defaults=False)
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, spec.name, configs=topic_configs[spec.name] | spec.config)
        for spec in altered
    ]
    for response in await admin.alter_configs(resources):
        for code, message, _, name in response.resources:
            if code:
                raise for_code(code)(f"the broker did not alter the topic {name}: {message}")
    return [spec.name for spec in altered]


_UNALTERABLE = ("partitions", "replication")


async def _remaining(
    admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], altered: Collection[str]
) -> list[Difference]:
    """The differences that remain. A broker may describe the old configuration of a topic for a moment: the controller
    answers before the brokers have the new one."""

    def is_stale(differences: Sequence[Difference]) -> bool:
        return any(each.topic in altered and each.setting not in _UNALTERABLE for each in differences)

    retrying: AsyncRetrying = AsyncRetrying(
        retry=retry_if_result(is_stale),
        stop=stop_after_delay(STALE_SECONDS),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
    )
    remaining: list[Difference] = await retrying(_differences, admin, specs)
    return remaining


async def _differences(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[Difference]:
    if not specs:
        return []
    names = [spec.name for spec in specs]
    descriptions = {topic["topic"]: topic for topic in await admin.describe_topics(names)}
    configs = await _configs(admin, names)
    differences: list[Difference] = []
    for spec in specs:
        partitions = descriptions[spec.name]["partitions"]
        actual = configs[spec.name] | {
            "partitions": str(len(partitions)),
            "replication": str(min((len(partition["replicas"]) for partition in partitions), default=0)),
        }
        required = spec.config | {"partitions": str(spec.partitions), "replication": str(spec.replication)}
        if len(partitions) > spec.partitions:
            # They are no fault, and Kafka cannot remove any.
            del required["partitions"]
        differences.extend(
            Difference(spec.name, setting, value, actual.get(setting, "not set"))
            for setting, value in required.items()
            if actual.get(setting) != value
        )
    return differences


async def _configs(
    admin: AIOKafkaAdminClient, names: Sequence[str], *, defaults: bool = True
) -> dict[str, dict[str, str]]:
    """The configuration of each topic. Without `defaults`, only the settings that were set for the topic itself."""
    if not names:
        return {}
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for response in responses:
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"the configuration of topic {name} cannot be read: {message}")
            configs[name] = {entry[0]: entry[1] for entry in entries if defaults or entry[3] == _DYNAMIC_TOPIC_CONFIG}
    return configs
