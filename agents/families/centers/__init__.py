"""Shopping centers and the companies in them.

- The `pcCode`, for example `FR-SC-123`, identifies a center. A `pcCode` that exists already is 409.
- A company that a visitor works for cannot be deleted (409). An update of a company must have a `companyName`.
"""
