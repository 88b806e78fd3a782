"""Full and partial visitors: how to create, find, count and erase them, and the ids that other systems have for them.

**Create**
- Only one visitor can have an `email`; a second one is 409 `email_taken`. Emails are compared as mailboxes: in NFC, in
  lower case, with the domain in A-labels (IDNA). `ß` and `ss` are different. Answers show the email as it was sent.
- A new full visitor with the email of a partial visitor upgrades the partial one: `visitorId` and `barcode` stay,
  `accountType` becomes full, `registrationDate` becomes the current time, and the `acquisitionPcCode` that was sent is
  stored as `upgradePcCode`.
- The `preferredCenter` of a partial visitor becomes its favourite center.
- Each visitor gets a `barcode` and an external id of the type `analytics`. Both are UUIDs. `originType` and `origin`
  describe the caller: its API key, or the source of its message.

**Find**
- `query` and `queryBy` must be sent together. They search by prefix in one field, and ignore case, accents, and the
  kinds of quotes, dashes and spaces. `fullname` finds "first last" and "last first". A query without searchable
  characters finds nobody.
- `isSmartparker` is true for visitors with an active parking. `registeredSince` and `registeredUntil` compare
  `registrationDate`.
- The details operation lists visitors together with all their records.
- `barcode` accepts any text. A barcode that no visitor has finds nobody.

**External ids**
- A visitor has at most one external id of a type in each center, and one without a center. A type, an id and a center
  together identify one visitor.
- Some types are created only by this service. They cannot be created by callers, and some cannot be deleted. Each
  operation lists the types that it accepts.
- The batch operation takes comma lists.

**Erase**
- All rows about the visitor are deleted, and tombstones follow on the compacted change topics.
- The answer lists the ids that were erased and the ids that failed. An id that no visitor has is listed as failed; so
  is an id that was erased earlier. The request itself still succeeds.

**Event tokens**
- An event token is a JSON Web Token (HS256) with `visitorId`, `companyId`, `iat` and `exp`. `expiresAt` is its `exp`.
  If no secret is configured, the answer is 503.
"""
