// The lanes of a worker, one for each of its partitions, with the messages that the worker has not committed.

import { count, duration, plural } from "./format.js";

const LATE_SECONDS = 2; // Workers commit once per second, so that a younger lag is normal.

export function isLate(seconds) {
  return seconds > LATE_SECONDS;
}

// The lanes of some workers, in the order of the families, then of the partitions. `lagSeconds` is null if the age of the
// oldest message could not be read.
export function lanesOf(workers, { families, queries, partitions }) {
  const lags = new Map(partitions.map((lag) => [`${lag.topic}:${lag.partition}`, lag]));
  return [...families.map((family) => family.requests), queries].flatMap(({ topic }) =>
    workers.flatMap((worker) => worker.partitions[topic] ?? []).sort((one, other) => one - other).map((partition) =>
      lags.get(`${topic}:${partition}`) ?? { topic, partition, lag: 0, lagSeconds: 0 }));
}

// The topics of lanes, each once.
export function topicsOf(lanes) {
  return [...new Set(lanes.map((lane) => lane.topic))];
}

export function summary(lanes) {
  const filled = lanes.filter((lane) => lane.lag).length;
  return `${plural(lanes.length, "lane")}, ${filled ? `${count(filled)} not empty` : "all empty"}`;
}

// The lane whose oldest message has waited longest, or null if all are empty.
export function mostLate(lanes) {
  const age = (lane) => lane.lagSeconds ?? 0;
  return lanes.filter((lane) => lane.lag).reduce((most, lane) =>
    !most || age(lane) > age(most) || (age(lane) === age(most) && lane.lag > most.lag) ? lane : most, null);
}

// The family of a request topic, or "queries".
export function shortTopic(topic) {
  return topic.replace(/^visitor\./, "").replace(/\.requests$/, "");
}

export function name({ topic, partition }) {
  return `${shortTopic(topic)}:${partition}`;
}

export function lagText({ lag, lagSeconds }) {
  return lag && lagSeconds !== null ? `${count(lag)} (${duration(lagSeconds).replace(" ", "\u00a0")})` : count(lag);
}
