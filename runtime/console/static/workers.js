// The workers with their partitions.

import { h } from "./dom.js";
import { plural } from "./format.js";

function worker({ clientId, host, partitions }) {
  const topics = Object.entries(partitions);
  const total = topics.reduce((sum, [, numbers]) => sum + numbers.length, 0);
  return h("li", { class: "card" },
    h("h3", {}, clientId),
    h("p", { class: "muted" }, `${host.replace(/^\//, "")} · ${plural(total, "partition")}`),
    h("details", {}, h("summary", {}, "Partitions"),
      h("dl", { class: "pairs" }, topics.map(([topic, numbers]) => [h("dt", {}, topic), h("dd", {}, numbers.join(", "))]))));
}

export function workerList({ workers }) {
  if (!workers.length) return h("p", { class: "card empty" }, "No worker runs.");
  return h("ul", { class: "worker-list" }, workers.map(worker));
}
