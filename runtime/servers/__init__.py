"""Real Kafka and PostgreSQL from packages, run as child processes, for `visitor dev` and the tests."""

from runtime.servers.downloads import fetch_kafka
from runtime.servers.kafka import Kafka
from runtime.servers.postgres import Postgres
from runtime.servers.processes import Processes, ServerFailed

__all__ = ["Kafka", "Postgres", "Processes", "ServerFailed", "fetch_kafka"]
