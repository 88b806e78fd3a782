"""Services of the centers with their stores, segments, themes and targets.

- Stores, segments, themes and targets are linked to a service; the same link twice is 409. Deleting is for links only,
  so nothing loses what it belongs to.
- A service is answered with all that is linked to it, and with `checkinCount`, the number of its checkins.
- `undeletable` is kept and answered, and means nothing here.
"""
