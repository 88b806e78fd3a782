"""The engine of a worker, in the order in which a request passes through it.

- `engine`: starts and stops everything, and watches progress.
- `group_consumer`, `app`, `faust_patches`: a Faust app in a consumer group, which hands events to lanes.
- `lanes`: a queue for each assigned partition.
- `batches`: tasks that take batches from the lanes.
- `turns`: lets reads pass batches of writes.
- `decode`, `schema_lookup`: from a record to a valid request.
- `processor`: applies a batch and publishes its results and dead letters.
- `apply`, `change_entries`: one transaction for a batch, with inbox and outbox.
- `outbound`: sends results, replies and dead letters.
- `publisher`: from the outbox to the change topics.
- `tombstones`, `republish`: what goes to the change topics again.
- `floods`: detects partitions in which most messages are unreadable.
- `lag`, `measurements`: metrics that are measured at a period.
- `audit`: the audit log of requests.
- `spans`: the traces of requests, batches and changes.
- `retry`, `breaker`, `progress`, `readiness`, `settings`: what the others share.
"""
