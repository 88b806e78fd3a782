"""What holds for all operations, for those who read /docs: Markdown."""

ABOUT = """
Profiles, consents, vehicles, visits, check-ins, rewards and challenges of the visitors of shopping centers, and the
catalogue around them. Each operation is also a message of Kafka with the same parts and the same answers; see the
README. `HEAD` is answered wherever `GET` is.

## Replies
`{"data": …, "metadata": {"version": 1, "_links": {…}}}`, for one record as for a list. Visits and histories of
challenges come without that envelope. A write that only changes something answers 204 and no body.

## Errors
`{"errors": [{"code", "type", "field", "message"}]}`, one entry for each fault found, all faults of a body at once.
`code` is a stable word for programs, `message` is for people, and `field` is the JSON path of what is wrong
(`optins[0].optinType`). A path without such a method is 405, one that is not there 404 `route_not_found`.

## Repeating a call
Every write takes an `Idempotency-Key`; where you send none, one is made and answered. After a 504 or a lost connection,
repeat the call with the same key: it is applied once, and you get its answer, for 9 days unless configured otherwise.
An answer is final, whatever its status: a refused call that is repeated with the same key gets the same refusal, also
when it would succeed by now. Send a corrected call with a new key; another content under the same key is 422.
A `traceparent` (W3C Trace Context) goes with the request's messages; an invalid one is ignored.
`Prefer: respond-async` answers 202 at once; the same call with the same key and without that header gets the answer.

## Lists
`limit` (25 unless said, at most 500) and `offset` page, `sort` takes a comma list of fields with `-` before one for
descending, and `fields` a comma list of the fields to answer. Without `sort` the oldest comes first (by primary key),
and the primary key breaks ties. `_links` has `self` and `first`, and `prev` and `next` where they exist, as paths with
your own query kept. `…Since` and `…Gte` are inclusive, `…Until` and `…Lt` exclusive, except for visits, where both ends
are inclusive.

## What is accepted
- Unknown fields and parameters are refused, not ignored, and a parameter stands once. A path value is percent-decoded
  once, so it may hold an encoded slash.
- JSON types are strict: `"5"` is no integer and `1` no boolean. Two exceptions: a number given for a string is taken as
  its text, and a number with nothing behind its point is an integer (`2020.0`, also as a parameter). Decimals are
  exact, whatever zeros they end with.
- PATCH changes the fields that are there. `null` clears a field that may be null and is refused for others.
- Times are RFC 3339 with an offset, from the year 2 to 9998, and are answered in UTC with `Z`.
- A call without a body (empty, or `null`) counts as one with `{}`, whatever its content type; a body that is an array
  has to be sent. A body may be compressed with gzip (`Content-Encoding: gzip`), once; it counts as it is decompressed.
- A text holds at most 1,000 characters (documents 200,000) and no NUL, a list at most 500 entries, a body 1 MiB, a URL
  64 KiB.
- A payment card number is never accepted: 400 `card_number_refused`. It is a run of digits of any script, with no
  letter or digit beside it, with blanks or dashes in it or not, that has an issuer's prefix and length (Visa,
  Mastercard, American Express, Discover, JCB, Maestro, Diners Club, UnionPay) and passes the Luhn check. Exempt are phone numbers,
  URLs and what other systems name things by: `externalId`, `barcode`, `transactionId`, `token`, `notificationToken`,
  `fingerprint`, `sendId`, `clientId`, `partnerId` and `guid`.
- A locale is a language and a territory of the Unicode CLDR: `fr-FR`, `fr_fr` and `fr-Latn-FR` are one, answered as the
  first. With another script than the usual one it is unknown.
- What the path names and is not there is 404, what the body names 400 with its field. A child is found only under its
  own parent. An id in the body that differs from the path's is 400 `ids_differ`.
- A request about a visitor who was erased meanwhile is not applied again: 404 `visitor_erased`.
""".strip()
