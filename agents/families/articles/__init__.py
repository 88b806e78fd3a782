"""Articles with their texts in several locales.

- An update replaces texts by locale; locales that are not sent keep theirs. A locale that is not in `/locales` is 400,
  and so are texts of one field with more than 1,000,000 characters together.
- `publishDateSince` and `publishDateUntil` may be plain dates: the start of that day in UTC. The first is inclusive,
  the second exclusive.
"""
