"""Articles with their texts in several locales.

- An update replaces texts by locale; locales that are not sent keep theirs. A locale that is not in `/locales` is 400.
- `publishDateSince` and `publishDateUntil` may be plain dates: the start of that day in UTC. The first is inclusive,
  the second exclusive.
"""
