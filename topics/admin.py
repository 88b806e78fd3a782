"""Creating the topics that are missing, and saying where one differs; nothing that exists is ever changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from topics.kafka import KafkaSettings
from topics.names import TopicSpec


@dataclass(frozen=True)
class Difference:
    """An existing topic that is not what the service needs."""

    topic: str
    setting: str
    wanted: str
    found: str


@dataclass(frozen=True)
class Report:
    created: Sequence[str]
    differences: Sequence[Difference]


async def ensure(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> Report:
    """Create what is missing. Raises KafkaError where the broker refuses."""
    admin = AIOKafkaAdminClient(**settings.client())
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [spec for spec in specs if spec.name not in present]
        created = await _create(admin, missing)
        existing = [spec for spec in specs if spec.name not in created]
        return Report(created, await _differences(admin, existing) if existing else [])
    finally:
        await admin.close()


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


async def _differences(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> list[Difference]:
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


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
    }
