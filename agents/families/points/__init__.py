"""Rewards; challenges with their participants, points, rankings and histories.

- **Rewards**: `isConverted` is true if `balance` is at least `threshold`.
- **Joining**: a visitor joins a challenge once (409). The challenge must be active and between its dates (409
  `challenge_not_running`).
- **Points** are added exactly, also when many calls arrive at the same time. Each call counts an entry, updates
  `lastEntryDate` and adds a history row with the action `increment` and the new total. A challenge that is not running
  gives 409 `challenge_not_running`; a total below zero gives 400. A higher `bonusEntryCount` adds a history row with
  `bonusActivated`.
- **Rankings**: positions start at 1, and equal points share a position. Participants with equal points are listed in
  the order in which they reached them. `topRanking` holds the first `winnerNumber` participants, at most 10,000.
  `otherRanking` holds the visitor, two participants above and two below; it is empty for a visitor among the first
  `winnerNumber`. A `name` is the first name and an initial. `bonusActivatedToday` uses the day in the challenge's time
  zone. `canLogPoints` is true while the challenge runs.
- **Terminating** a challenge before its `endDate` gives 409 unless `ignoreEndDate` is true. The status becomes `ended`,
  and the rewards of the winners are unlocked, once.
- **Texts** are replaced by locale. A locale that is not in `/locales` gives 400, and so do texts of one field with more
  than 1,000,000 characters in total.
- Challenges have `createdAt` and `updatedAt`. The list of histories has no envelope and no pages: it is an array of all
  rows.
"""
