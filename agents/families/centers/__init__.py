"""Shopping centers and the companies in them.

- A center's key is its `pcCode`, for example `FR-SC-123`; a taken one is 409.
- A company that visitors are attached to cannot be deleted (409). Renaming it needs `companyName`.
"""
