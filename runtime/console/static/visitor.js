// The timeline of one visitor: visits, consents as of a time, requests and changes.

import { get } from "./api.js";
import { announce, field, h, notices, table } from "./dom.js";
import { clock, dateTime, day, fromInput, plural } from "./format.js";

const PERIODS = [[24, "24 hours"], [7 * 24, "7 days"], [28 * 24, "28 days"]];
const KINDS = { visit: "Visit", checkin: "Check-in", consent: "Consent", request: "Request", change: "Change", deletion: "Deletion" };
const SAYS_ALL = ["checkin", "deletion"]; // Their names repeat the kind.
const SHOWN = 60;
const STATES = { given: "ok", refused: "bad", withdrawn: "warn" };

function consentRow(consent) {
  return h("tr", {},
    h("th", { scope: "row", "data-label": "Type" }, consent.optinType),
    h("td", { "data-label": "Channel" }, consent.optinChannel),
    h("td", { "data-label": "Context" }, consent.contextId ?? "–"),
    h("td", { "data-label": "State" }, h("span", { class: `badge ${STATES[consent.state]}` }, consent.state)),
    h("td", { "data-label": "Since" }, dateTime(consent.since)));
}

function eventItem(event) {
  const status = event.status && h("span", { class: `badge ${event.status < 400 ? "ok" : "bad"}` }, event.status);
  return h("li", { class: event.status >= 400 ? "bad" : event.kind === "visit" || event.kind === "checkin" ? "ok" : "" },
    h("p", {}, h("span", { class: "when" }, clock(event.time))),
    h("div", {},
      h("h3", {}, KINDS[event.kind], SAYS_ALL.includes(event.kind) ? null : h("span", { class: "badge accent" }, event.name), status),
      event.subject && h("code", {}, event.subject),
      event.requestId && h("div", {}, h("span", { class: "muted" }, event.kind === "change" ? "caused by " : "request "),
        h("a", { class: "id", href: `#/request?${new URLSearchParams({ id: event.requestId })}` }, event.requestId))));
}

function days(events) {
  const groups = Map.groupBy ? Map.groupBy(events, (event) => day(event.time)) : events.reduce((groups, event) =>
    groups.set(day(event.time), [...(groups.get(day(event.time)) ?? []), event]), new Map());
  return [...groups].map(([date, group]) => [h("h3", { class: "day" }, `${date} UTC`), h("ol", { class: "steps compact" }, group.map(eventItem))]);
}

// The events, of which the kinds can be chosen; the newest at first, all on demand.
function timelineCard(events) {
  const kinds = Object.keys(KINDS).filter((kind) => events.some((event) => event.kind === kind));
  const chosen = new Set(kinds);
  let isComplete = false;
  const list = h("div", {});
  const more = h("button", { type: "button", class: "quiet", click: () => { isComplete = true; show(); } });
  const chips = kinds.map((kind) => h("button", { type: "button", class: "quiet", "aria-pressed": "true", click: (event) => {
    if (!chosen.delete(kind)) chosen.add(kind);
    event.currentTarget.setAttribute("aria-pressed", String(chosen.has(kind)));
    show();
  } }, `${KINDS[kind]} ${events.filter((event) => event.kind === kind).length}`));
  function show() {
    const selected = events.filter((event) => chosen.has(event.kind));
    list.replaceChildren(...days(isComplete ? selected : selected.slice(0, SHOWN)).flat());
    more.hidden = isComplete || selected.length <= SHOWN;
    more.textContent = `Show all ${selected.length}`;
  }
  show();
  return [h("div", { class: "chips", role: "group", "aria-label": "Kinds of events" }, chips), h("div", { class: "card stack" }, list, more)];
}

export function visitorView(content, parameters) {
  const id = h("input", { class: "mono", name: "id", required: true, autocomplete: "off", spellcheck: "false", value: parameters.get("id") ?? "", pattern: "[0-9a-fA-F\\-]{32,36}", title: "A UUID" });
  const at = h("input", { type: "datetime-local", name: "at", value: parameters.get("at") ?? "" });
  const hours = h("select", { name: "hours" }, PERIODS.map(([value, text]) => h("option", { value, selected: parameters.get("hours") === String(value) }, text)));
  const result = h("div", { class: "stack" });
  const form = h("form", {
    class: "fields card", role: "search",
    submit: (event) => {
      event.preventDefault();
      history.replaceState(null, "", `#/visitor?${new URLSearchParams({ id: id.value.trim(), at: at.value, hours: hours.value })}`);
      find();
    },
  }, field("Visitor id", id, { class: "field wide" }), field("Consents as of (UTC), now if empty", at),
  field("Changes of the last", hours), h("button", {}, "Show"));

  async function find() {
    result.replaceChildren(h("p", { class: "muted" }, "Reading …"));
    try {
      show(await get(`visitors/${encodeURIComponent(id.value.trim())}`, { at: fromInput(at.value), hours: hours.value }));
    } catch (error) {
      result.replaceChildren(notices([["bad", error.message]]));
      announce(error.message);
    }
  }

  function show(timeline) {
    announce(`${plural(timeline.consents.length, "consent")}, ${plural(timeline.events.length, "event")}. ${timeline.notes.join(" ")}`);
    const columns = ["Type", "Channel", "Context", "State", "Since"].map((text) => ({ text }));
    result.replaceChildren(
      timeline.notes.length ? notices(timeline.notes.map((note) => ["note", note])) : "",
      !timeline.exists ? "" : h("dl", { class: "card facts" },
        [["Account", timeline.accountType], ["Created", dateTime(timeline.creationDate)], ["Updated", dateTime(timeline.updateDate)],
          ["Timeline", plural(timeline.events.length, "event")]].map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))),
      h("section", {}, h("h2", {}, "Consents as of ", h("span", { class: "nowrap" }, dateTime(timeline.at))),
        timeline.consents.length ? table("Consents", columns, timeline.consents.map(consentRow)) : h("p", { class: "card empty" }, "No consent was given or refused.")),
      h("section", {}, h("h2", {}, "Timeline"),
        timeline.events.length ? h("div", { class: "stack" }, timelineCard(timeline.events)) : h("p", { class: "card empty" }, "Nothing is known.")));
  }

  content.append(
    h("p", { class: "lead" }, "Visits, consents, requests and changes of one visitor, by id only. Looking is written to the audit log."),
    form, result);
  if (id.value) find();
  else id.focus();
}
