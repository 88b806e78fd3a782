"""Vehicles, cards without their numbers, subscriptions to parking, parking sessions with their costs, and partners.

- **Vehicles and cards** are deleted softly: they get a `deletionDate`, and lists show them with `includeDeleted` only.
  Updating a vehicle may set its `deletionDate`, too.
- **Plates** contain at least one letter or digit (400 `wrong_format`) and are compared as for visits.
- **Cards**: `goodThru` is MM/YYYY. A card number is never accepted, anywhere: 400 `card_number_refused`.
- **Parkings**: a visitor has one active parking with each partner (409). Deleting unsubscribes: the row stays, with
  `isActive` false and `unsubscribedAt`.
- **Parking histories**: `startDate` and `endDate` of a list bound `parkingSessionStart`; `accessDevice` is compared
  with `accessDevice` and `exitAccessDevice`. Amounts are exact decimals.
- **The summary** groups by calendar month and currency. A session counts in the month of its `parkingSessionStart`
  (`creationDate` where there is none) in the given time zone. Payments that failed or are pending are left out.
- **Partners of vehicles** are there once for each vehicle, partner and center (409), whether `pcCode` or
  `visitorCenterId` names the center; where both do, it is one center (400). The map of partners has the active centers
  only, by country and `pcCode`.
"""
