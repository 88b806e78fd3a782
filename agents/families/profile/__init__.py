"""Favourite centers, bookmarks, interests, devices with their apps, locales, and sessions in a center's operations.

- **Centers**: one of them is the favourite at most; setting one clears the other. `favoriteDate` is when it was set.
  PUT creates or replaces, 200 both times. A `centerCompanyId` is a company of that very center (400).
- **Bookmarks**: one of a visitor for each type, external id and center (409).
- **Interests**: PUT makes the list exactly what was sent.
- **Devices**: registering a known `token` updates its device, 200 instead of 201. A token that moves to another visitor
  leaves the first one. Each `urwAppId` that is registered becomes an app of the device and goes with it.
- **Locales**: the languages and territories of the Unicode CLDR. `en_us` and `en-US` are the same locale, and so are
  `zh-CN` and `zh-Hans-CN`, with its usual script.
- **Sessions in operations**: a `guid` is there once for each visitor (409). Segments and stores are added each on its
  own: those that are there already or cannot be kept (a text that is blank, too long or holds a NUL) are told under
  `failed`, the others under `success`. Another shape is 400 for the whole body, and so is a card number.
"""
