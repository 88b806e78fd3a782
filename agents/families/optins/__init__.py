"""Consents with their history, legal texts in their versions and locales, and consents that are still needed.

**Optins**
- An optin is never overwritten: a new one for the same `optinType`, `optinChannel` and `contextId` supersedes the older
  one, which goes inactive with its `optoutDate`. So the list is the history of what a visitor agreed to.
- `isActive` true sets `optinDate`, false sets `optoutDate`.
- `latest=true` lists the newest of each type, channel and context only.
- Both deletes opt out and remove nothing. The one by type and channel does so in every context. What is out already is
  404.

**Legal texts**
- `version` counts up from 1 for each type.
- `latest=true` lists the newest released version of each type. `locale` fills the three texts from that locale; they
  are null where there is none.

**Required consents**
- Of each type whose newest released text has `requireConsent`, that text. `requireConsent` is true unless the visitor
  has an active optin that names that very text.
- With `newCenter`, `privacy_eu`, `privacy_us`, `smartparking_us` and `sms_us` are left out where they are not those of
  the center's country.
"""
