"""Check-ins of visitors at the services of a center.

- The visitor is named by its id in the path (404) or by its barcode (404). Center and service have to be there, and the
  service has to be one of that center (400).
- Before the service's `startDate` and after its `endDate` it is 409 `service_not_available`.
- A service's `checkinCount` counts its checkins; deleting one removes it and lowers the count.
"""
