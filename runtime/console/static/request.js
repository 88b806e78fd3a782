// One request by its id: its message, when it was applied, its results and its changes.

import { get } from "./api.js";
import { announce, breakable, field, h, notices } from "./dom.js";
import { clock, day, duration, plural } from "./format.js";

const PERIODS = [[15, "15 minutes"], [120, "2 hours"], [24 * 60, "24 hours"], [7 * 24 * 60, "7 days"]];
const TITLES = { request: "Request", applied: "Applied", result: "Result", reply: "Reply to HTTP", change: "Change", deadLetter: "Dead letter" };

function status(number) {
  return number === null ? null : h("span", { class: `badge ${number < 400 ? "ok" : "bad"}` }, number);
}

function fact(label, value) {
  return value === null || value === undefined || value === "" ? null : [h("dt", {}, label), h("dd", {}, h("code", {}, breakable(value)))];
}

function visitorLink(id) {
  return id && [h("dt", {}, "visitor"), h("dd", {}, h("a", { class: "id", href: `#/visitor?id=${id}` }, id))];
}

function step(entry, first) {
  const delay = (new Date(entry.time) - first) / 1000;
  const isBad = entry.kind === "deadLetter" || entry.status >= 400;
  return h("li", { class: isBad ? "bad" : entry.status || entry.kind === "change" ? "ok" : "" },
    h("p", {},
      h("span", { class: "when" }, clock(entry.time, true)),
      h("span", { class: "delay" }, delay > 0 ? ` +${duration(delay)}` : ` ${day(entry.time)} UTC`)),
    h("div", {},
      h("h3", {}, TITLES[entry.kind], status(entry.status ?? null), entry.errors?.map((error) => h("span", { class: "badge bad" }, error))),
      entry.name && h("p", {}, h("code", {}, entry.name)),
      h("dl", { class: "pairs" },
        fact("source", entry.source),
        entry.entityId && fact("entity", `${entry.entityId}, revision ${entry.revision}`),
        fact("in", entry.offset === undefined ? `inbox, as a request of ${entry.topic}` : `${entry.topic}:${entry.partition}:${entry.offset}`),
        fact("trace", entry.traceId),
        (entry.visitorIds ?? [entry.visitorId]).map(visitorLink)),
      entry.kind === "deadLetter" && h("a", { href: `#/dead-letters?id=${entry.partition}:${entry.offset}` }, "Show the dead letter")));
}

function steps(trace) {
  const applied = trace.answered.map((answer) => ({ ...answer, kind: "applied", time: answer.receivedAt, name: answer.operation }));
  return [...trace.messages, ...applied].sort((a, b) => a.time.localeCompare(b.time));
}

export function requestView(content, parameters) {
  const id = h("input", { class: "mono", name: "id", required: true, maxlength: 400, autocomplete: "off", spellcheck: "false", value: parameters.get("id") ?? "" });
  const minutes = h("select", { name: "minutes" }, PERIODS.map(([value, text]) => h("option", { value, selected: parameters.get("minutes") === String(value) }, text)));
  const result = h("div", { class: "stack" });
  const form = h("form", {
    class: "fields card", role: "search",
    submit: (event) => {
      event.preventDefault();
      const query = new URLSearchParams({ id: id.value.trim(), minutes: minutes.value });
      history.replaceState(null, "", `#/request?${query}`);
      find();
    },
  }, field("Request id: ce_id, Idempotency-Key, or topic:partition:offset@time", id, { class: "field wide" }),
  field("If it is not in the inbox, search the last", minutes), h("button", {}, "Find"));

  async function find() {
    result.replaceChildren(h("p", { class: "muted" }, "Searching …"));
    try {
      show(await get("requests", { id: id.value.trim(), minutes: minutes.value }));
    } catch (error) {
      result.replaceChildren(notices([["bad", error.message]]));
      announce(error.message);
    }
  }

  function show(trace) {
    const entries = steps(trace);
    const first = entries.length ? new Date(entries[0].time) : null;
    announce(`${plural(entries.length, "step")} found. ${trace.notes.join(" ")}`);
    result.replaceChildren(
      trace.notes.length ? notices(trace.notes.map((note) => ["note", note])) : "",
      entries.length
        ? h("section", { class: "card" }, h("h2", {}, "From message to change"), h("ol", { class: "steps" }, entries.map((entry) => step(entry, first))))
        : h("p", { class: "card empty" }, `Nothing was found about ${trace.requestId}.`));
  }

  content.append(
    h("p", { class: "lead" }, "Follow one request from its message to its result and its changes. Contents are not shown."),
    form, result);
  if (id.value) find();
  else id.focus();
}
