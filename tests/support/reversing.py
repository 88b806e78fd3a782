"""A worker that publishes changes in reverse order: `python -m tests.support.reversing worker`. The oracle of `chaos`
must notice."""

from collections.abc import Sequence
from typing import Any

from runtime import cli
from storage import outbox

_claim = outbox.claim


async def _claim_reversed(*arguments: Any) -> Sequence[outbox.Entry]:
    return (await _claim(*arguments))[::-1]


if __name__ == "__main__":
    outbox.claim = _claim_reversed
    cli.main()
