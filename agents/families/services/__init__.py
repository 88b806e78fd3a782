"""Services of the centers with their stores, segments, themes and targets.

- Stores, segments, themes and targets are linked to a service. A link that exists already is 409. Only links can be
  deleted; services, themes and targets stay.
- The reply for a service has its stores, segments, themes and targets, and `checkinCount`, the number of its checkins.
- `undeletable` is stored and returned; it has no effect.
"""
