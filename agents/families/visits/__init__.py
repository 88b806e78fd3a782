"""Entries and exits of visitors, as gateways and applications report them.

- A visit identifies its visitor by `visitorId`, `barcode` or `licensePlate`; at least one of them is required. A
  licence plate identifies the visitor of the vehicle with that plate; of several such vehicles, the one that was
  updated last. Deleted vehicles do not count. If several fields are sent, all of them must identify the same visitor;
  otherwise the answer is 409 `ids_mismatch`. If a field identifies no visitor, the answer is 404.
- Plates are compared by their letters (with their accents) and digits only, in upper case, after Unicode
  normalization (NFKC), and with the digits of any script. A plate without letters and digits matches no vehicle.
  Answers show the plate as it was sent, or null if no plate was sent.
- An entry moves the visitor's `lastVisitDate` and the vehicle's `lastParkingSession` forward, never back.
- Over HTTP, `visitDate` is the time at which the request arrived. In a Kafka message a gateway may send its own
  `visitDate`: any time in the past, and at most 5 minutes in the future.
- A list covers one visitor and one center. It identifies the visitor by the same rules. `visitDateSince` and
  `visitDateUntil` are both inclusive.
- The replies of these two operations have no envelope.
"""
