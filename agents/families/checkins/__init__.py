"""Check-ins of visitors at the services of a center.

- A checkin names its visitor by the id in the path, or by a barcode. If there is no such visitor, the answer is 404.
  The center and the service must exist, and the service must belong to the center; otherwise the answer is 400.
- Before the service's `startDate` and after its `endDate`, the answer is 409 `service_not_available`.
- The `checkinCount` of a service is the number of its checkins. Deleting a checkin lowers it.
"""
