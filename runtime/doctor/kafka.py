"""The checks of Kafka."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aiokafka import TopicPartition

from agents.catalogue import CATALOGUE
from runtime.doctor.findings import Finding, failed, listed, ok, warning
from runtime.doctor.installation import Installation
from runtime.overview import DELAYED_SECONDS, LATE_SECONDS, KafkaOverview, Unavailable
from storage import dead_letter_marks
from storage.dead_letter_marks import MarkKey
from topics import acls, admin, dead_letters, names
from topics.observer import observing
from topics.rights import rights_of

CLOCK_LIMIT = timedelta(seconds=1)
"""How far clocks may differ. A worker drops a read whose deadline has passed by its own clock."""
RECENT = timedelta(days=1)
"""The age up to which dead letters are counted."""
COUNTED_DEAD_LETTERS = 1_000
"""How many of each partition are read."""


async def reachable(installation: Installation) -> Finding:
    settings = installation.settings.kafka
    async with rights_of(settings) as rights:
        if not await rights.is_supported():
            return failed(f"{settings.bootstrap} is older than Kafka 3.7", "upgrade the brokers")
    return ok(f"{settings.bootstrap} answers")


async def rights(installation: Installation) -> Finding:
    role, group = installation.role, installation.settings.worker.group
    allowed = acls.of_role(role, sorted(CATALOGUE.families), group)
    topics = [spec.name for spec in CATALOGUE.topics(installation.settings.kafka)]
    groups = [names.consumer_group(group, consumer) for consumer in ("requests", "queries")]
    async with rights_of(installation.settings.kafka) as user:
        missing = await user.missing(allowed, topics, groups)
    if missing:
        return failed(f"this user may not {listed(missing)}", f"add the ACLs that `visitor acls {role}` prints")
    return ok(f"this user has all rights of the role {role}")


async def topics(installation: Installation) -> Finding:
    settings = installation.settings.kafka
    missing, differences = await admin.compare(settings, CATALOGUE.topics(settings))
    if missing:
        advice = "run `visitor topics`"
        if resources := CATALOGUE.resources_of(missing):
            advice += f"; if a topic was lost, then fill it again: `visitor republish --restart {' '.join(resources)}`"
        return failed(f"missing, or may not be described: {listed(missing)}", advice)
    if not differences:
        return ok("all topics exist and have the required configuration")
    by_setting = defaultdict(list)
    for each in differences:
        by_setting[f"{each.setting} is {each.actual} instead of {each.required}"].append(each.topic)
    texts = [f"{text} ({listed(of_setting)})" for text, of_setting in by_setting.items()]
    return warning("; ".join(texts), "run `visitor topics --alter`, or correct the VISITOR_KAFKA_… settings")


async def retention(installation: Installation) -> Finding:
    inbox_days = installation.settings.worker.inbox_days
    requests = [names.requests(family) for family in CATALOGUE.families]
    lifetimes = await admin.record_lifetimes(installation.settings.kafka, requests)
    longer = [
        topic for topic, lifetime in lifetimes.items() if lifetime is None or lifetime > timedelta(days=inbox_days)
    ]
    if longer:
        return failed(
            f"Kafka keeps requests of {listed(longer)} longer than the inbox keeps answers ({inbox_days:g} days), and"
            " could deliver them twice",
            "run `visitor topics --alter`, or raise VISITOR_WORKER_INBOX_DAYS",
        )
    return ok(f"Kafka deletes requests before the inbox deletes their answers ({inbox_days:g} days)")


async def clock(installation: Installation) -> Finding:
    """Brokers do not tell their time. But they put it on requests, so a clock that is ahead can be seen."""
    requests = [names.QUERIES, *(names.requests(family) for family in CATALOGUE.families)]
    async with observing(installation.settings.kafka) as observer:
        partitions = await observer.partitions(requests)
        beginnings, ends = await observer.beginnings(partitions), await observer.ends(partitions)
        offsets = {partition: end - 1 for partition, end in ends.items() if end > beginnings[partition]}
        records, unread = await observer.records(offsets, ends, 1)
    if not (records or unread):
        return ok("no request tells the time of a broker")
    ahead = max((record.timestamp for record in records), default=0) / 1000 - now().timestamp()
    if ahead > CLOCK_LIMIT.total_seconds():
        return warning(f"the newest request was stored {ahead:.1f} s in the future", "synchronise the clocks, by NTP")
    if unread:
        return _unread("the newest requests", unread)
    return ok("no request was stored in the future")


async def groups(installation: Installation) -> Finding:
    overview = _overview(installation)
    if isinstance(overview, Unavailable):
        return failed(overview.reason, "run this again")
    without_members = [group.name for group in overview.groups if group.state in ("Empty", "Dead")]
    if without_members:
        return failed(f"no worker runs: {listed(without_members)} have no members", "start `visitor worker`")
    rebalancing = [group.name for group in overview.groups if group.state != "Stable"]
    if rebalancing:
        return warning(
            f"{listed(rebalancing)} are rebalancing", "run this again; if it stays, look for restarting workers"
        )
    count = len(overview.workers)
    return ok(f"{count} worker{'' if count == 1 else 's'}")


async def lag(installation: Installation) -> Finding:
    overview = _overview(installation)
    if isinstance(overview, Unavailable):
        return failed(overview.reason, "run this again")
    waiting = [lag for group in overview.groups for lag in group.partitions if lag.messages]
    oldest = max((lag.seconds or 0 for lag in waiting), default=0.0)
    messages = sum(lag.messages for lag in waiting)
    unknown = [f"{lag.topic}:{lag.partition}" for lag in waiting if lag.seconds is None]
    if oldest < DELAYED_SECONDS and unknown:
        return warning(
            f"{messages} messages wait; those of {listed(unknown)} could not be read, so that their age is unknown",
            "run this again",
        )
    if oldest < DELAYED_SECONDS:
        return ok(f"{messages} messages wait, the oldest for {oldest:.1f} s")
    late = [f"{lag.topic}:{lag.partition}" for lag in waiting if (lag.seconds or 0) >= DELAYED_SECONDS]
    late += unknown
    state = failed if oldest >= LATE_SECONDS else warning
    return state(
        f"{messages} messages wait, the oldest for {oldest:.0f} s, in {listed(late)}",
        "ask a worker for its reasons with `visitor health worker`; if it is ready, start more workers",
    )


async def recent_dead_letters(installation: Installation) -> Finding:
    since = now() - RECENT
    async with observing(installation.settings.kafka) as observer:
        partitions = await observer.partitions([names.DEAD_LETTERS])
        offsets = await observer.offsets_at(partitions, since)
        records, unread = await observer.records(offsets, await observer.ends(partitions), COUNTED_DEAD_LETTERS)
    letters = [dead_letters.read(record) for record in records]
    keys = [MarkKey(*letter.position, letter.written_at) for letter in letters]
    async with installation.database.connect() as conn:
        marks = await dead_letter_marks.read(conn, keys)
    reasons = Counter(letter.reason for letter, key in zip(letters, keys, strict=True) if key not in marks)
    if not reasons and unread:
        return _unread("the dead letters since yesterday", unread)
    if not reasons:
        return ok("no dead letters since yesterday that were neither replayed nor discarded")
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return warning(
        f"{'at least ' if unread else ''}{reasons.total()} dead letters since yesterday: {counts}",
        f"`visitor dead-letters list --since {since:%Y-%m-%dT%H:%M:%S}` shows them, `replay` or `discard` handles them",
    )


def _unread(what: str, partitions: Sequence[TopicPartition]) -> Finding:
    texts = [f"{topic}:{number}" for topic, number in partitions]
    return warning(f"{what} could not be read in time from {listed(texts)}", "run this again")


def _overview(installation: Installation) -> KafkaOverview | Unavailable:
    assert installation.overview is not None
    return installation.overview.kafka


def now() -> datetime:
    return datetime.now(UTC)
