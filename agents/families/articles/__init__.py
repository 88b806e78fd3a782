"""Articles with their texts in several locales.

- An update replaces the texts of the locales in the body; the texts of other locales stay. A locale that is not in
  `/locales` is 400. All texts of one field together may have at most 1,000,000 characters (400).
- `publishDateSince` is inclusive, `publishDateUntil` exclusive. A date without a time is the start of that day in UTC.
"""
