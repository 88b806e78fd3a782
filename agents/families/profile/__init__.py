"""Centers of a visitor, bookmarks, interests, devices with their apps, locales, and sessions in a center's operations.

- **Centers**: a visitor has at most one favourite center. A new favourite replaces the former one. `favoriteDate` is
  the time at which the center became the favourite. PUT creates or replaces a center and answers 200 in both cases.
  `centerCompanyId` must name a company of the same center (400).
- **Bookmarks**: a visitor has one bookmark for each type, external id and center (409).
- **Interests**: PUT replaces the whole list.
- **Devices**: registering a known `token` answers 200 instead of 201. If it is a device of the same visitor, it is
  updated. If it is a device of another visitor, it moves to the new visitor. Each registered `urwAppId` is an app of
  the device. Deleting a device deletes its apps.
- **Locales**: the languages and territories of the Unicode CLDR. `en_us` and `en-US` are the same locale. So are
  `zh-CN` and `zh-Hans-CN`, because Hans is the usual script in China.
- **Sessions in operations**: a visitor has one session for each `guid` (409). Each segment or store of a body succeeds
  or fails by itself. The reply lists under `failed` the entries that the session has already and the entries with a
  text that is blank, too long or contains a NUL. It lists the others under `success`. If an entry has another shape or
  a card number, the whole body is refused (400).
"""
