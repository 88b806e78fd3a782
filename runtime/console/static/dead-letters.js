// Dead letters: filter, detail, replay.

import { get, post } from "./api.js";
import { CLOSE, announce, ask, breakable, field, h, notices, open, table, tell } from "./dom.js";
import { clock, count, dateTime, day, fromInput, plural } from "./format.js";

const FILTERS = ["reason", "operation", "source", "topic", "since", "all"];

function state(letter) {
  if (letter.action) return h("span", { class: "badge", title: dateTime(letter.markedAt) }, letter.action);
  return letter.complete ? null : h("span", { class: "badge warn" }, "incomplete");
}

function pairs(entries) {
  return h("dl", { class: "pairs" }, entries.filter(([, value]) => value !== null && value !== "").map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]));
}

function details(letter) {
  const request = letter.requestId && h("a", { class: "id", href: `#/request?${new URLSearchParams({ id: letter.requestId })}` }, letter.requestId);
  return [
    pairs([
      ["Reason", h("span", {}, h("span", { class: "badge bad" }, letter.reason), ` ${letter.message}`)],
      ["Written", dateTime(letter.writtenAt)],
      ["Operation", letter.operation], ["Source", letter.source], ["Request id", request],
      ["Original", h("code", {}, `${letter.topic}:${letter.partition}:${letter.offset}`)],
      ["State", letter.action ? `${letter.action}, ${dateTime(letter.markedAt)}` : letter.complete ? "open" : "open; has only a part of the message and cannot be replayed"],
    ]),
    h("h3", {}, "Headers"),
    pairs(Object.entries(letter.headers).map(([name, value]) => [name, h("code", {}, value ?? "none")])),
    letter.hiddenHeaders.length ? h("p", { class: "muted" }, `Also, without their values: ${letter.hiddenHeaders.join(", ")}`) : null,
    h("h3", {}, "Fields of the value"),
    h("pre", { tabindex: "0", role: "region", "aria-label": "Fields of the value" }, JSON.stringify(letter.outline, null, 2)),
    h("p", { class: "muted" }, "Texts and numbers are left out, since they may be personal data. ", h("code", {}, `visitor dead-letters show ${letter.id}`), " prints them."),
  ];
}

export function deadLettersView(content, parameters) {
  const inputs = {
    reason: h("input", { name: "reason", autocomplete: "off", list: "reasons" }),
    operation: h("input", { name: "operation", autocomplete: "off", placeholder: "visits.create" }),
    source: h("input", { name: "source", autocomplete: "off", placeholder: "gateway/paris-12" }),
    topic: h("input", { name: "topic", autocomplete: "off", placeholder: "visitor.visits.requests" }),
    since: h("input", { name: "since", type: "datetime-local" }),
    all: h("input", { name: "all", type: "checkbox" }),
  };
  for (const name of FILTERS) {
    if (name === "all") inputs.all.checked = parameters.get("all") === "true";
    else inputs[name].value = parameters.get(name) ?? "";
  }
  const reasons = h("datalist", { id: "reasons" });
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Reasons" });
  const result = h("div", { class: "stack" });
  const summary = h("p");
  const replayButton = h("button", { type: "button", hidden: true, click: () => replay([...selected]) }, "Replay …");
  const allButton = h("button", { type: "button", class: "quiet", hidden: true, click: () => selectAll(!selected.size) });
  const toolbar = h("div", { class: "toolbar" }, summary, allButton, replayButton);
  const selected = new Set();

  const form = h("form", {
    class: "fields even", role: "search",
    submit: (event) => {
      event.preventDefault();
      find();
    },
  },
  field("Operation", inputs.operation), field("Source", inputs.source), field("Topic", inputs.topic), field("Reason", inputs.reason),
  field("Since (UTC)", inputs.since), h("label", { class: "check" }, inputs.all, "Also those that were replayed or discarded"), reasons,
  h("button", {}, "Filter"));

  function query() {
    return { ...Object.fromEntries(["reason", "operation", "source", "topic"].map((name) => [name, inputs[name].value.trim()])),
      since: fromInput(inputs.since.value), all: inputs.all.checked };
  }

  // Reads the dead letters and says how many there are, after what was done.
  async function find(done = "") {
    selected.clear();
    update();
    const shown = new URLSearchParams(Object.entries({ ...query(), since: inputs.since.value }).filter(([, value]) => value));
    history.replaceState(null, "", `#/dead-letters${shown.size ? `?${shown}` : ""}`);
    toolbar.hidden = false;
    summary.textContent = "Reading …";
    try {
      show(await get("dead-letters", query()), done);
    } catch (error) {
      toolbar.hidden = true;
      result.replaceChildren(notices([["bad", error.message]]));
      announce(error.message);
    }
  }

  function show(page, done) {
    const letters = page.deadLetters;
    const number = page.total > letters.length
      ? `The newest ${count(letters.length)} of ${count(page.total)} dead letters. The command line replays more at once.`
      : page.total ? `${plural(page.total, "dead letter")}.` : "";
    summary.textContent = [done, number].filter(Boolean).join(" ");
    announce([done, number || emptyText()].filter(Boolean).join(" "));
    toolbar.hidden = !summary.textContent;
    replayButton.hidden = allButton.hidden = !letters.length;
    reasons.replaceChildren(...Object.keys(page.counts).map((reason) => h("option", { value: reason })));
    chips.replaceChildren(...Object.entries(page.counts).map(([reason, number]) => h("button", {
      type: "button", class: "quiet", value: reason, "aria-pressed": String(inputs.reason.value === reason),
      click: async () => {
        inputs.reason.value = inputs.reason.value === reason ? "" : reason;
        await find();
        [...chips.children].find((chip) => chip.value === reason)?.focus(); // The one that was pressed is gone.
      },
    }, `${reason} ${count(number)}`)));
    const columns = ["Dead letter", "Written (UTC)", "Reason", "Operation", "Source", "State"].map((text) => ({ text }));
    result.replaceChildren(letters.length
      ? table("Dead letters", columns, letters.map(row))
      : h("p", { class: "card empty" }, emptyText()));
    update();
  }

  function emptyText() {
    const { all: withMarked, ...others } = query();
    const isFiltered = Object.values(others).some(Boolean);
    return `There are no ${isFiltered ? "such " : ""}${withMarked ? "" : "open "}dead letters.`;
  }

  function row(letter) {
    const box = h("input", { type: "checkbox", "aria-label": `Select ${letter.id}`, value: letter.id, disabled: Boolean(letter.action) || !letter.complete,
      change: () => {
        if (box.checked) selected.add(letter.id);
        else selected.delete(letter.id);
        update();
      } });
    return h("tr", { class: "selectable" },
      h("th", { scope: "row" }, h("span", { class: "select" }, box,
        h("button", { type: "button", class: "link id", click: () => showLetter(letter.id) }, letter.id))),
      h("td", { "data-label": "Written" }, h("span", {}, `${day(letter.writtenAt)} `, h("span", { class: "nowrap" }, clock(letter.writtenAt)))),
      h("td", { "data-label": "Reason" }, h("span", { class: "badge bad" }, letter.reason)),
      h("td", { "data-label": "Operation" }, letter.operation ? breakable(letter.operation) : "–"),
      h("td", { "data-label": "Source" }, h("code", {}, letter.source ?? "–")),
      h("td", { "data-label": "State" }, state(letter)));
  }

  function selectAll(isSelected) {
    for (const box of result.querySelectorAll("tbody input:not(:disabled)")) {
      box.checked = isSelected;
      if (isSelected) selected.add(box.value);
      else selected.delete(box.value);
    }
    update();
  }

  function update() {
    replayButton.disabled = !selected.size;
    replayButton.textContent = selected.size ? `Replay ${count(selected.size)} …` : "Replay …";
    allButton.textContent = selected.size ? "Select none" : "Select all";
  }

  async function showLetter(id) {
    let letter;
    try {
      letter = await get(`dead-letters/${encodeURIComponent(id)}`);
    } catch (error) {
      await tell(`Dead letter ${id}`, error.message);
      return;
    }
    const actions = [CLOSE];
    if (!letter.action && letter.complete) actions.push({ text: "Replay …", value: "replay" });
    if (await open(`Dead letter ${letter.id}`, details(letter), actions) === "replay") await replay([letter.id]);
  }

  async function replay(ids) {
    try {
      const plan = await post("dead-letters/plan", { ids });
      const left = plan.marked + plan.incomplete + plan.foreign;
      const notes = [
        left && ["note", `${plural(left, "other")} cannot be replayed: ${[[plan.marked, "handled before"], [plan.incomplete, "incomplete"], [plan.foreign, "not from a request topic"]]
          .filter(([number]) => number).map(([number, why]) => `${count(number)} ${why}`).join(", ")}.`],
        plan.olderThanInbox && ["warn", `Older than the answers of the inbox (${plan.inboxDays} days): ${plural(plan.olderThanInbox, "message")}. If a sender has sent such a request again, a replay may apply it twice.`],
        plan.stillFaulty && ["warn", `Dead letters again after the replay: ${plural(plan.stillFaulty, "message")}, because the fault is in the message itself. Let its sender send a corrected one.`],
      ].filter(Boolean);
      const text = plan.replayable
        ? "The original messages are sent to their topics again, byte for byte and with their ids. The inbox recognises what was applied before. A request that met a bug is applied again."
        : "Nothing can be replayed.";
      const answer = await ask(`Replay ${plural(plan.replayable, "dead letter")}?`, [h("p", {}, text), notes.length ? notices(notes) : null],
        [{ text: "Cancel", value: "", quiet: true }, ...(plan.replayable ? [{ text: `Replay ${count(plan.replayable)}`, value: "replay" }] : [])]);
      if (answer !== "replay") return;
      const { replayed } = await post("dead-letters/replay", { ids });
      await find(`${plural(replayed.length, "dead letter")} replayed.`);
      document.querySelector("h1").focus(); // The button that had the focus is gone.
    } catch (error) {
      await tell("Replay", error.message);
    }
  }

  content.append(
    h("p", { class: "lead" }, "Messages that the service could not read, or that met a bug."),
    h("details", { class: "card", open: matchMedia("(min-width: 641px)").matches }, h("summary", {}, "Filter"), form), chips, toolbar, result);
  update();
  find().then(() => parameters.get("id") && showLetter(parameters.get("id")));
}
