"""Creates missing topics, and compares existing ones with what the service needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from topics.kafka import KafkaSettings
from topics.names import TopicSpec, record_lifetime


@dataclass(frozen=True)
class Difference:
    """An existing topic that is not what the service needs."""

    topic: str
    setting: str
    wanted: str
    found: str


@dataclass(frozen=True)
class Report:
    """`altered` are topics whose configuration was changed, `differences` what is left."""

    created: Sequence[str]
    altered: Sequence[str]
    differences: Sequence[Difference]


async def ensure(settings: KafkaSettings, specs: Sequence[TopicSpec], *, alter: bool = False) -> Report:
    """Create missing topics. With `alter`, give existing ones the configuration that the service needs; their numbers
    of partitions and replicas stay. Raises KafkaError where the broker refuses."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        present = set(await admin.list_topics())
        created = await _create(admin, [spec for spec in specs if spec.name not in present])
        existing = [spec for spec in specs if spec.name not in created]
        differences = await _differences(admin, existing)
        if not alter:
            return Report(created, [], differences)
        altered = await _alter(admin, existing, differences)
        return Report(created, altered, await _differences(admin, existing))
    finally:
        await admin.close()


async def record_lifetimes(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, timedelta | None]:
    """How long Kafka can deliver a record of each topic; None where it keeps records without a limit. Raises
    KafkaError, for example where the configuration may not be read."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        configs = await _configs(admin, topics)
    finally:
        await admin.close()
    return {topic: _lifetime(config) for topic, config in configs.items()}


def _lifetime(config: Mapping[str, str]) -> timedelta | None:
    retention, segment = (timedelta(milliseconds=int(config[name])) for name in ("retention.ms", "segment.ms"))
    unlimited = retention < timedelta(0) or "delete" not in config["cleanup.policy"]
    return None if unlimited else record_lifetime(retention, segment)


async def missing_topics(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> list[str]:
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        present = set(await admin.list_topics())
        return [spec.name for spec in specs if spec.name not in present]
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[str]:
    if not specs:
        return []
    answer = await admin.create_topics(
        [NewTopic(spec.name, spec.partitions, spec.replication, topic_configs=spec.config) for spec in specs]
    )
    created = []
    for name, code, *rest in answer.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            continue
        if code:
            raise for_code(code)(f"topic {name} was not created: {rest[0] if rest else ''}")
        created.append(name)
    return created


_OF_THE_TOPIC = 1
"""The source DYNAMIC_TOPIC_CONFIG of a value (Kafka's protocol guide, DescribeConfigs)."""


async def _alter(
    admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], differences: Iterable[Difference]
) -> list[str]:
    """aiokafka has no IncrementalAlterConfigs, so a topic's other settings are sent along."""
    different = {difference.topic for difference in differences if difference.setting not in _LAYOUT}
    altered = [spec for spec in specs if spec.name in different]
    own = await _configs(admin, [spec.name for spec in altered], own=True)
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, spec.name, configs=own[spec.name] | spec.config) for spec in altered
    ]
    for answer in await admin.alter_configs(resources) if resources else ():
        for code, message, _, name in answer.resources:
            if code:
                raise for_code(code)(f"topic {name} was not altered: {message}")
    return [spec.name for spec in altered]


_LAYOUT = ("partitions", "replication")


async def _differences(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[Difference]:
    if not specs:
        return []
    described = {topic["topic"]: topic for topic in await admin.describe_topics([spec.name for spec in specs])}
    configs = await _configs(admin, [spec.name for spec in specs])
    found: list[Difference] = []
    for spec in specs:
        partitions = described[spec.name]["partitions"]
        actual = configs[spec.name] | {
            "partitions": str(len(partitions)),
            "replication": str(min((len(partition["replicas"]) for partition in partitions), default=0)),
        }
        wanted = spec.config | {"partitions": str(spec.partitions), "replication": str(spec.replication)}
        found.extend(
            Difference(spec.name, name, value, actual.get(name, "not set"))
            for name, value in wanted.items()
            if actual.get(name) != value
        )
    return found


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str], *, own: bool = False) -> dict[str, dict[str, str]]:
    """The configuration of each topic, or only what was set for the topic itself."""
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for code, message, _, name, entries in (resource for answer in answers for resource in answer.resources):
        if code:
            raise for_code(code)(f"the configuration of topic {name} cannot be read: {message}")
        configs[name] = {entry[0]: entry[1] for entry in entries if not own or entry[3] == _OF_THE_TOPIC}
    return configs
