"""Kafka's command-line tools, with the names that they have in Apache's distribution."""

import shlex
from pathlib import Path

from runtime.dev.servers.downloads import KAFKA_VERSION, fetch, fetch_kafka
from runtime.dev.servers.kafka import SHORT_LIVED, java
from tests.support.servers import DOWNLOADS

COORDINATE = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}"
"""The jar that the tools need beside those of the broker. `make lock` writes its sum."""
SUMS = Path(__file__).with_name(f"kafka-tools-{KAFKA_VERSION}.sha256")
_CLASSES = {
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}


def install(folder: Path) -> None:
    """Write the tools as programs into a folder."""
    command = shlex.join(java(SHORT_LIVED, fetch_kafka(DOWNLOADS), fetch(DOWNLOADS, SUMS)))
    for name, main_class in _CLASSES.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {command} {main_class} "$@"\n')
        program.chmod(0o755)
