"""Entries and exits of visitors, as gateways and applications report them.

- A visit names its visitor by `visitorId`, `barcode` or `licensePlate`, at least one of them. A plate names the visitor
  of the vehicle with that plate that is not deleted and was updated last. Where several are given, all have to name one
  visitor, else it is 409 `ids_mismatch`; what names nobody is 404.
- Plates are compared in NFKC and upper case, by their letters (with their marks) and digits only; digits of all scripts
  are equal. A plate with neither letters nor digits matches nobody. Answers show the plate that was given, and null
  where none was.
- An entry moves the visitor's `lastVisitDate` and the vehicle's `lastParkingSession` forward, never back.
- Over HTTP a visit is at the time of its arrival. In a message a gateway may send its own `visitDate`, as old as it
  likes and up to 5 minutes ahead of our clock.
- A list is about one visitor, named by the same rules, and one center. Both ends of `visitDateSince` and
  `visitDateUntil` are inclusive.
- These two operations answer without the envelope.
"""
