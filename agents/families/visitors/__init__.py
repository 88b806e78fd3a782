"""The visitors themselves, full and partial: finding, counting and erasing them, and the ids that others have for them.

**Creating**
- An `email` belongs to one visitor: 409 `email_taken`. Emails are compared in NFC, with the domain in IDNA A-labels, in
  lower case (`ß` and `ss` differ), and returned as sent.
- A full visitor whose email is that of a partial one upgrades it: `visitorId` and `barcode` stay, `accountType` becomes
  full, `registrationDate` is now, and the `acquisitionPcCode` sent is kept as `upgradePcCode`.
- A partial visitor gets its `preferredCenter` as favourite center.
- Each visitor gets a `barcode` and an external id of the type `analytics`, both UUIDs. `originType` and `origin` are
  those of the caller: of its API key, or of the source of its message.

**Finding**
- `queryBy` and `query` go together: a search by prefix in that field that ignores case, accents and the kind of quotes,
  dashes and spaces. `fullname` finds "first last" and "last first". A blank query finds nobody.
- `isSmartparker` is about who has an active parking. `registeredSince` and `registeredUntil` compare
  `registrationDate`.
- The details are whole visitors with all that belongs to them.
- Any text may be asked for as a barcode; one that is nobody's finds nothing.

**External ids**
- A visitor has at most one of a type in each center, and one without a center. A type, id and center name one visitor.
- Some types are given by us only and cannot be created, or not be deleted; the operations list what they take.
- The batch takes comma lists.

**Erasing**
- Every row about the visitor goes, and tombstones follow on the compacted change topics.
- The answer lists the ids that were erased and those that failed. An id that nobody has, also since it was erased
  before, has failed; that is no error.

**Event tokens**
- A JSON Web Token (HS256) with `visitorId`, `companyId`, `iat` and `exp`; `expiresAt` is its `exp`. Where no secret is
  configured it is 503.
"""
