"""What worker and edge report about themselves.

- `metrics`: all metrics of both processes.
- `event_loop`: measures how late the event loop is.
- `traces`: spans of OpenTelemetry.
"""
