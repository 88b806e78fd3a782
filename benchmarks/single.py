"""The worker with one message per transaction: `python -m benchmarks.single worker`."""

from agents.engine import lanes
from runtime.cli import main

if __name__ == "__main__":
    lanes.BATCH_LIMIT = 1
    main()
