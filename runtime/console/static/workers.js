// The workers with their lanes.

import { h } from "./dom.js";
import { isLate, lagText, lanesOf, mostLate, name, shortTopic, summary, topicsOf } from "./lanes.js";

function lag(lane) {
  return lane.lag ? h("span", { class: isLate(lane.lagSeconds) ? "badge warn" : "badge" }, lagText(lane)) : null;
}

function worker(member, index, kafka) {
  const lanes = lanesOf([member], kafka);
  const most = mostLate(lanes);
  return h("li", { class: "card" },
    h("h3", {}, `worker ${index + 1}`),
    h("p", { class: "muted wrap" }, `${member.clientId}, ${member.host.replace(/^\//, "")}`),
    h("p", {}, summary(lanes)),
    h("p", {}, most ? ["Most: ", name(most), " ", lag(most)] : "Nothing waits."),
    h("details", {}, h("summary", {}, "Lanes"),
      h("dl", { class: "pairs" }, topicsOf(lanes).map((topic) => [
        h("dt", {}, shortTopic(topic)),
        h("dd", {}, lanes.filter((lane) => lane.topic === topic).map((lane) => [h("span", { class: "lane" }, `${lane.partition} `, lag(lane)), " "])),
      ]))));
}

export function workerList(kafka) {
  if (!kafka.workers.length) return h("p", { class: "card empty" }, "No worker runs.");
  return h("ul", { class: "worker-list" }, kafka.workers.map((member, i) => worker(member, i, kafka)));
}
