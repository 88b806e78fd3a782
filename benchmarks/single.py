"""The worker with one message per transaction: `python -m benchmarks.single worker`."""

from agents.engine import batches
from runtime.cli import main

if __name__ == "__main__":
    batches.BATCH_LIMIT = 1
    main()
