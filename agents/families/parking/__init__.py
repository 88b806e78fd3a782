"""Vehicles, cards without their numbers, subscriptions to parking, parking sessions with their costs, and partners.

- **Vehicles and cards** are deleted softly: they get a `deletionDate`, and lists return them only with
  `includeDeleted`. An update of a vehicle can also set its `deletionDate`.
- **Plates** must contain a letter or a digit (400 `wrong_format`). They are compared as for visits.
- **Cards**: `goodThru` is MM/YYYY. A card number is refused in every field: 400 `card_number_refused`.
- **Parkings**: a visitor has at most one active parking with each partner (409). A delete unsubscribes: the record
  stays, with `isActive` false and `unsubscribedAt`.
- **Parking histories**: `startDate` and `endDate` of a list are limits for `parkingSessionStart`. `accessDevice` is
  compared with `accessDevice` and `exitAccessDevice`. Amounts are exact decimals.
- **The summary** groups by calendar month and currency. A session belongs to the month of its `parkingSessionStart` in
  the given time zone; a session without one belongs to the month of its `creationDate`. Failed and pending payments are
  not counted.
- **Partners of vehicles**: a vehicle has at most one id for each partner and center (409). `pcCode` or
  `visitorCenterId` names the center; if both are sent, they must name the same center (400). The map of partners
  contains only active centers, by country and `pcCode`.
"""
