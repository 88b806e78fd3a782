// What the installation does now: whether it is well, its numbers, and the flow of the data.

import { announce, h, notice, s, setText, update } from "./dom.js";
import { clock, compact, count, day, duration, plural, rate } from "./format.js";
import { lagText } from "./lanes.js";
import { listen } from "./live.js";
import { Picture } from "./picture.js";
import { workerList } from "./workers.js";

const LATE_SECONDS = 10;
const OLD_CHANGE_SECONDS = 30;
const RECENT_MILLISECONDS = 300_000;

// The problems of a state, each as [level, message]. The runbook says what to do about each.
function problemsOf(state) {
  const { kafka, database } = state;
  const problems = [];
  if (kafka.unavailable) problems.push(["bad", `Kafka: ${kafka.unavailable}`]);
  if (database.unavailable) problems.push(["bad", `PostgreSQL: ${database.unavailable}`]);
  if (!kafka.unavailable) {
    if (kafka.missingTopics.length) problems.push(["bad", `Missing topics: ${kafka.missingTopics.join(", ")}. Run \`visitor topics\`.`]);
    if (!kafka.workers.length) problems.push(["bad", "No worker runs: requests wait until one starts."]);
    else for (const group of kafka.groups.filter((group) => group.state !== "Stable")) {
      problems.push(["warn", `The consumer group ${group.name} is ${group.state}: its partitions are being distributed.`]);
    }
    for (const { topic, lagSeconds } of [...kafka.families.map((family) => family.requests), kafka.queries]) {
      if (lagSeconds > LATE_SECONDS) problems.push(["warn", `${topic} is late by ${duration(lagSeconds)}.`]);
    }
  }
  const isRecent = (letter) => Date.parse(state.time) - Date.parse(letter.writtenAt) < RECENT_MILLISECONDS;
  if (kafka.deadLetters?.newest.some(isRecent)) {
    problems.push(["warn", "Dead letters were written in the last five minutes: messages that cannot be read, or met a bug."]);
  }
  if (database.oldestChangeSeconds > OLD_CHANGE_SECONDS) {
    problems.push(["warn", `The oldest change in the outbox has waited ${duration(database.oldestChangeSeconds)} for its publisher.`]);
  }
  if (database.lockWaits) problems.push(["warn", `Transactions in PostgreSQL that wait for a lock: ${count(database.lockWaits)}.`]);
  for (const { session, application, state, tables, seconds } of database.lockHolders ?? []) {
    const who = [application || "unnamed", state].filter(Boolean).join(", ");
    problems.push(["warn", `Session ${session} of PostgreSQL (${who}) has held locks on ${tables.join(", ")} for ${duration(seconds)}.`]);
  }
  return problems;
}

function lead(state) {
  const last = state.points[state.points.length - 1];
  if (state.kafka.unavailable) return "";
  const lag = last.lag ? `${plural(last.lag, "message")} waiting` : "nothing waiting";
  return `${plural(state.kafka.workers.length, "worker")}, ${rate(last.requests)} requests, ${lag}. As of ${clock(state.time)} UTC.`;
}

function perSecond(value) {
  return value < 10 ? value.toFixed(1) : compact(value);
}

class Tile {
  constructor(name, label, unit, format) {
    this.name = name;
    this.format = format;
    this.number = h("span", {}, "–");
    this.line = s("path", { class: "line" });
    this.area = s("path", { class: "area" });
    this.element = h("div", { class: "card tile" },
      h("dt", {}, label),
      h("dd", {}, this.number, h("small", {}, unit)),
      s("svg", { viewBox: "0 0 149 36", preserveAspectRatio: "none", "aria-hidden": "true" }, this.area, this.line));
  }

  update(points) {
    const values = points.map((point) => point[this.name]);
    const last = values[values.length - 1];
    setText(this.number, last === null ? "–" : this.format(last));
    const most = Math.max(1, ...values.map((value) => value ?? 0));
    const start = 150 - values.length;
    const path = values.map((value, i) => `${i ? "L" : "M"}${start + i} ${(34 - 28 * (value ?? 0) / most).toFixed(1)}`).join("");
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", values.length ? `${path}L149 36L${start} 36Z` : "");
  }
}

function row(name, requests, results = "–", changes = "–", outbox = "–") {
  return h("tr", {},
    h("th", { scope: "row" }, name),
    h("td", { class: "number" }, rate(requests.perSecond)),
    h("td", { class: "number" }, lagText(requests)),
    h("td", { class: "number optional" }, results),
    h("td", { class: "number" }, changes),
    h("td", { class: "number optional" }, outbox));
}

function rows({ families, queries }) {
  return [
    ...families.map(({ name, requests, results, changes }) =>
      row(name, requests, rate(results.perSecond), rate(changes.atMostPerSecond), count(changes.waiting))),
    row("queries", queries),
  ];
}

function deadLetterList({ newest, unread }) {
  if (!newest.length) {
    const text = unread.length ? "The dead letters could not be read in time." : "There are no dead letters.";
    return h("p", { class: "card empty" }, text);
  }
  return h("ul", { class: "card stack" }, newest.slice(0, 5).map((letter) => h("li", {},
    h("span", { class: "badge bad" }, letter.reason), " ",
    h("a", { href: `#/dead-letters?id=${letter.id}` }, `Dead letter ${letter.id}`), " ",
    h("span", { class: "muted" }, `of ${letter.topic || "an unknown topic"}, `,
      h("span", { class: "nowrap" }, `${day(letter.writtenAt)} ${clock(letter.writtenAt)} UTC`)))));
}

export function flowView(content) {
  const summary = h("p", { class: "lead" }, "Reading Kafka and PostgreSQL …");
  const problemList = h("ul", { class: "notices" });
  const tiles = [
    new Tile("requests", "Requests and reads", "per second", perSecond),
    new Tile("changes", "Changes committed", "per second", perSecond),
    new Tile("lag", "Lag of the workers", "waiting", compact),
    new Tile("outbox", "In the outbox", "waiting", compact),
  ];
  const picture = new Picture();
  const families = h("tbody", {});
  const headings = [["Family", ""], ["Requests", "number"], ["Lag", "number"], ["Results", "number optional"],
    ["Changes, at most", "number"], ["In the outbox", "number optional"]];
  const familyTable = h("div", { class: "card flush" }, h("table", {},
    h("caption", { class: "visually-hidden" }, "Families"),
    h("thead", {}, h("tr", {}, headings.map(([text, style]) => h("th", { scope: "col", class: style }, text)))),
    families));
  const workers = h("div", {});
  const newest = h("div", {});
  const pictureSection = h("section", { "aria-labelledby": "picture-title", hidden: true },
    h("h2", { id: "picture-title" }, "From request to change"), picture.element);
  const details = [
    h("section", {}, h("h2", {}, "Families"), h("p", { class: "lead" },
      "Per second, over the last two seconds. Queries are the reads of all families. Change topics also count the markers of transactions."), familyTable),
    h("section", {}, h("h2", {}, "Workers"), workers),
    h("section", {}, h("h2", {}, "Newest dead letters"), newest),
  ];
  content.append(
    summary,
    problemList,
    h("dl", { class: "tiles" }, tiles.map((tile) => tile.element)),
    pictureSection,
    ...details,
  );
  for (const section of details) section.hidden = true;

  let announced = null;
  const stop = listen((state) => {
    setText(summary, lead(state));
    const problems = problemsOf(state);
    const entries = problems.length ? problems : [["ok", "Requests are applied as they arrive."]];
    update(problemList, entries.map(([level, message]) => notice(level, message)));
    // A problem is announced once, not again with each new number.
    const text = entries.map(([, message]) => message.replace(/[\d.,]+ ?(ms|s|min|h|days)?/g, "")).join();
    if (announced !== null && announced !== text) announce(entries.map(([, message]) => message).join(" "));
    announced = text;
    for (const tile of tiles) tile.update(state.points);
    pictureSection.hidden = Boolean(state.kafka.unavailable) && !picture.known;
    picture.update(state);
    for (const section of details) section.hidden = Boolean(state.kafka.unavailable);
    if (state.kafka.unavailable) return;
    update(families, rows(state.kafka));
    update(workers, [workerList(state.kafka)]);
    update(newest, [deadLetterList(state.kafka.deadLetters)]);
  });
  return () => {
    stop();
    picture.close();
  };
}
