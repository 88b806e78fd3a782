"""The engine of a worker, in the order in which a request passes through it.

- `engine`: starts and stops everything, and watches progress.
- `group_consumer`, `app`: a Faust app in a consumer group, which hands events to lanes.
- `lanes`: a queue for each assigned partition.
- `batches`: tasks that take batches from the lanes.
- `decode`: from a record to a valid request.
- `processor`: applies a batch and publishes its results and dead letters.
- `apply`: one transaction for a batch, with inbox and outbox.
- `publisher`: from the outbox to the change topics.
- `floods`: detects partitions in which most messages are unreadable.
- `lag`, `measurements`: metrics that are measured at a period.
- `spans`: the traces of requests, batches and changes.
- `retry`, `breaker`, `progress`, `readiness`, `settings`: what the others share.
"""
