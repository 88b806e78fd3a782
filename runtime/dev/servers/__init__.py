"""Kafka and PostgreSQL from packages, run as child processes, for `visitor dev` and the tests."""

from runtime.dev.servers.downloads import fetch_kafka
from runtime.dev.servers.kafka import Kafka
from runtime.dev.servers.postgres import Postgres
from runtime.dev.servers.processes import Processes, ServerFailed

__all__ = ["Kafka", "Postgres", "Processes", "ServerFailed", "fetch_kafka"]
