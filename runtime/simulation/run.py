"""Runs a simulation against an installation."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from runtime import progress
from runtime.dev.sample import SamplePerson
from runtime.simulation import app_users, crm, gateways, people, plan
from runtime.simulation.clock import Clock
from runtime.simulation.report import Report
from topics.kafka import Producer, consumer_at_ends
from topics.settings import KafkaSettings

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
CALLS_PER_PASSAGE = 0.5
ANSWER_SECONDS = 30.0
"""How long the last results and changes may take."""
CALL_SECONDS = 30.0
PROGRESS_SECONDS = 0.5
_MOST_PEOPLE = 2_000


@dataclass(frozen=True)
class Options:
    """`speed`: simulated seconds per second. `rate`: passages per second of real time, on average over a simulated day.
    `minutes`: simulated minutes; without it, the simulation runs until it is cancelled."""

    seed: int
    speed: float
    rate: float
    minutes: float | None = None

    @property
    def until(self) -> float:
        """The simulated end."""
        return math.inf if self.minutes is None else self.minutes * plan.MINUTE

    @property
    def simulated_rate(self) -> float:
        return self.rate / self.speed

    @property
    def people(self) -> int:
        return min(_MOST_PEOPLE, plan.people_needed(self.simulated_rate, self.until))


async def run(
    kafka: KafkaSettings,
    client: httpx.AsyncClient,
    options: Options,
    report: Report,
    sample_people: Sequence[SamplePerson] = (),
) -> None:
    """Simulate with the people of the sample, and as many others as the rate needs. The report has what happened until
    then, also if this is cancelled. Raises httpx.HTTPError, DeliveryError, KafkaError."""
    missing = max(0, options.people - len(sample_people))
    everybody = [*sample_people, *await people.ensure(client, missing)]
    run_id = report.run_id
    producer = Producer(kafka)
    await producer.start()
    try:
        async with consumer_at_ends(kafka, crm.TOPICS) as reader:
            follower = asyncio.create_task(crm.follow(reader, report))
            clock = Clock(options.speed)
            sends = plan.sends(options.seed, everybody, options.simulated_rate, options.until)
            calls = plan.calls(options.seed, everybody, options.simulated_rate * CALLS_PER_PASSAGE, options.until)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(gateways.send_all(producer, sends, clock, run_id, report))
                    tasks.create_task(app_users.call_all(client, calls, clock, run_id, report))
                await _await_answers(report)
            finally:
                follower.cancel()
                with suppress(asyncio.CancelledError):
                    await follower
    finally:
        await producer.stop()


async def run_with_progress(
    kafka: KafkaSettings, url: str, key: str | None, options: Options, report: Report, console: Console
) -> None:
    """The same at the URL of an edge, with the API key that it may need. A progress bar counts simulated minutes."""
    with progress.bar(console) as bar:
        task = bar.add_task("simulated minutes", total=options.minutes)

        async def show() -> NoReturn:
            while True:
                await asyncio.sleep(PROGRESS_SECONDS)
                bar.update(task, completed=int(report.simulated_until / plan.MINUTE))

        async with client_of(url, key) as client:
            showing = asyncio.create_task(show())
            try:
                await run(kafka, client, options, report)
            finally:
                showing.cancel()


def client_of(url: str, key: str | None = None) -> httpx.AsyncClient:
    """A client of an edge. The proxy of the environment is for other machines only."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    is_remote = urlsplit(url).hostname not in LOOPBACK_HOSTS
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=CALL_SECONDS, trust_env=is_remote)


async def _await_answers(report: Report) -> None:
    """Wait until all requests have results, and all that were applied have changes."""
    retrying = AsyncRetrying(
        retry=retry_if_result(lambda is_complete: not is_complete),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(ANSWER_SECONDS),
        retry_error_callback=lambda _: False,
    )

    async def is_complete() -> bool:
        return report.is_complete

    await retrying(is_complete)


def remote_hosts(kafka: KafkaSettings, url: str) -> list[str]:
    """The hosts of the installation that are not this machine."""
    addresses = [url, *(f"//{broker.strip()}" for broker in kafka.bootstrap.split(","))]
    hosts = (urlsplit(address).hostname or "" for address in addresses)
    return sorted({host for host in hosts if host not in LOOPBACK_HOSTS})
