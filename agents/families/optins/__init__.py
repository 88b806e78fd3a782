"""Consents with their history, legal texts with their versions and locales, and consents that are still required.

**Optins**
- An optin is never overwritten. A new optin supersedes the active one with the same `optinType`, `optinChannel` and
  `contextId`: the older optin becomes inactive and gets an `optoutDate`. So the list is the history of a visitor's
  consents.
- `isActive` true sets `optinDate`, false sets `optoutDate`.
- `latest=true` lists only the newest optin of each type, channel and context.
- Both deletes opt the visitor out and remove nothing. The delete by type and channel does so in every context. If
  nothing is active, the answer is 404.

**Legal texts**
- `version` counts up from 1 for each type.
- `latest=true` lists the newest released version of each type. `locale` fills the three texts from that locale. They
  are null if the legal text does not have that locale.

**Required consents**
- The list has one legal text for each type: the newest released version, if its `requireConsent` is set. In the list,
  `requireConsent` is true unless the visitor has an active optin that names exactly that text.
- With `newCenter`, the types `privacy_eu`, `privacy_us`, `smartparking_us` and `sms_us` are left out if they do not
  apply in the country of that center.
"""
