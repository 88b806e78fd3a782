"""What happened in a chaos run, and the least that must happen for its result to say something."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.table import Table

from chaos.faults import FAULTS, WITH_OVERLOAD, WITH_REPUBLICATION
from chaos.oracle import LOST, REPUBLISHED, Violation
from chaos.traffic import MESSAGES_PER_SECOND, OVERLOAD, Traffic

FAULTS_PER_HOUR = 1_000
MESSAGES_PER_MINUTE = 120
CALLS_PER_MINUTE = 10
ALL_KINDS_MINUTES = 30.0
"""How long a run takes that must have faults of each kind. A shorter one needs the same share of the kinds."""
OVERLOAD_SECONDS = 60.0
OVERLOAD_MINUTES = 10.0
"""How long a run takes whose overloads last OVERLOAD_SECONDS. Those of a shorter one are shorter."""
_TOLERANCE = 0.9
"""The share of the messages of an overload that must have been sent: the run itself may be slow for a moment."""


@dataclass
class Report:
    """`minutes` is how long faults are injected."""

    seed: int
    minutes: float
    started: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """The seconds that each round needed."""
    own_exits: Counter[str] = field(default_factory=Counter)

    @property
    def minute(self) -> float:
        return (time.monotonic() - self.started) / 60

    @property
    def overload_seconds(self) -> float:
        """How long an overload lasts at least."""
        return OVERLOAD_SECONDS * min(1, self.minutes / OVERLOAD_MINUTES)

    def verify(self, load: Traffic) -> None:
        """Check that enough happened for the length of the run. Raises Violation."""
        rule = "a run injects enough faults"
        least = max(1, int(FAULTS_PER_HOUR * self.minutes / 60))
        if self.faults.total() < least:
            raise Violation(rule, f"{self.faults.total()} in {self.minutes:g} minutes, at least {least} expected")
        missing = sorted({item.kind for item in FAULTS} - self.faults.keys())
        tolerated = int(len(FAULTS) * (1 - min(1, self.minutes / ALL_KINDS_MINUTES)))
        if len(missing) > tolerated:
            raise Violation(rule, f"{len(missing)} kinds never happened, {tolerated} may: {', '.join(missing)}")
        if load.sent < MESSAGES_PER_MINUTE * self.minutes or load.http.calls < CALLS_PER_MINUTE * self.minutes:
            raise Violation("a run has enough traffic", f"{load.sent} messages and {load.http.calls} HTTP calls")
        if not self.recoveries:
            raise Violation(rule, "no round ended, so no recovery was measured")
        self._verify_overloads(load)
        if self.faults[WITH_REPUBLICATION] and not load.oracle.compared[REPUBLISHED]:
            raise Violation(rule, "republications published nothing")

    def _verify_overloads(self, load: Traffic) -> None:
        least = _TOLERANCE * OVERLOAD * MESSAGES_PER_SECOND
        if len(load.overloads) < self.faults[WITH_OVERLOAD]:
            raise Violation("an overload sends messages", f"{self.faults[WITH_OVERLOAD]} overloads: {load.overloads}")
        for overload in load.overloads:
            if overload.seconds < self.overload_seconds or overload.rate < least:
                raise Violation(
                    f"an overload has {least:g} messages per second for {self.overload_seconds:g} s", str(overload)
                )

    def table(self, load: Traffic, peak_memory: Mapping[str, int]) -> Table:
        table = Table("", "", title=f"Chaos, seed {self.seed}, {self.minute:.1f} minutes")
        table.add_row("faults", str(self.faults.total()))
        for kind, count in sorted(self.faults.items()):
            table.add_row(f"  {kind}", str(count))
        table.add_row("messages sent, repetitions included", f"{load.sent:,}")
        for overload in load.overloads:
            table.add_row("  in an overload", f"{overload.rate:.1f} per second for {overload.seconds:.0f} s")
        table.add_row("results read", f"{load.oracle.results:,}")
        table.add_row("changes read", f"{load.oracle.changes:,}")
        table.add_row("HTTP calls, attempts", f"{load.http.calls:,}, {load.http.attempts:,}")
        table.add_row("HTTP calls without answer", str(len(load.oracle.lost) + load.oracle.compared[LOST]))
        compared: Counter[str] = Counter()
        for comparison, count in load.oracle.compared.items():
            compared[comparison.kind] += count
        for kind, count in sorted(compared.items()):
            table.add_row(f"compared: {kind}", f"{count:,}")
        table.add_row("rounds of faults", str(len(self.recoveries)))
        table.add_row("worst recovery", f"{max(self.recoveries, default=0):.1f} s")
        for name, peak in sorted(peak_memory.items()):
            table.add_row(f"peak memory of {name}", f"{peak / 2**20:.0f} MiB")
        for name, count in sorted(self.own_exits.items()):
            table.add_row(f"ended by itself: {name}", str(count))
        return table
