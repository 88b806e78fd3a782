"""Rewards; challenges with their participants, points, rankings and histories.

- **Rewards**: `isConverted` is true from the moment that `balance` reaches `threshold`.
- **Joining**: a visitor joins a challenge once (409), and only while it is active and between its dates (409
  `challenge_not_running`).
- **Points** are added exactly, however many calls come at once. Each call counts an entry, moves `lastEntryDate` and
  goes into the history as `increment` with the new total. While the challenge does not run it is 409
  `challenge_not_running`; a total below zero is 400. A raised `bonusEntryCount` goes into the history with
  `bonusActivated`.
- **Rankings**: positions count from 1, and equal points share one. Among equals, who reached them first comes first.
  `topRanking` is the first `winnerNumber`, 10,000 of them at most; `otherRanking` is the visitor with two above and two
  below, where it is not among the first `winnerNumber`. A `name` is the first name and an initial.
  `bonusActivatedToday` looks at today in the challenge's time zone, and `canLogPoints` is true while it runs.
- **Terminating**: 409 before `endDate` unless `ignoreEndDate`. The status becomes ended and the rewards of the winners
  are unlocked, once.
- **Texts** are replaced by locale; a locale that is not in `/locales` is 400, and so are texts of one field with more
  than 1,000,000 characters together.
- Challenges say `createdAt` and `updatedAt`. Histories are answered without the envelope, all of them.
"""
