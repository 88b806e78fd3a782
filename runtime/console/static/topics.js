// The topics with their schemas, and the workers that read them.

import { get } from "./api.js";
import { CLOSE, announce, h, notices, open, prose, setText, table, tell, update } from "./dom.js";
import { rate } from "./format.js";
import { lagText } from "./lanes.js";
import { listen } from "./live.js";
import { workerList } from "./workers.js";

async function showSchema({ id, name }) {
  try {
    const text = JSON.stringify(await get(`schemas/${id}`), null, 2);
    await open(name, [h("p", { class: "muted" }, `Schema ${id}`), h("pre", { tabindex: "0", role: "region", "aria-label": `Schema ${name}` }, text)], [CLOSE]);
  } catch (error) {
    await tell(name, error.message);
  }
}

function schemas(list) {
  const buttons = list.map((schema) => h("li", {}, h("button", { type: "button", class: "link", click: () => showSchema(schema) }, schema.name)));
  if (!list.length) return h("span", { class: "muted" }, "–");
  return list.length < 3 ? h("ul", {}, buttons) : h("details", {}, h("summary", {}, `${list.length} schemas`), h("ul", {}, buttons));
}

export function topicsView(content) {
  const workers = h("div", {}, h("p", { class: "card empty" }, "Reading …"));
  const topics = h("div", {}, h("p", { class: "card empty" }, "Reading …"));
  const cells = new Map();
  let latest = null;

  function show() {
    if (!latest) return;
    if (latest.unavailable) {
      update(workers, [h("p", { class: "card empty" }, "Not known while Kafka does not answer.")]);
      for (const cell of cells.values()) for (const number of Object.values(cell)) setText(number, "–");
      return;
    }
    update(workers, [workerList(latest)]);
    const rates = [...latest.families.flatMap((family) => [family.requests, family.results, ...family.changes.topics]), latest.queries, latest.replies, latest.deadLetters];
    for (const topic of rates) {
      const cell = cells.get(topic.topic);
      if (!cell) continue;
      setText(cell.rate, topic.atMostPerSecond ? `≤ ${rate(topic.atMostPerSecond)}` : rate(topic.perSecond ?? 0));
      if (topic.lag !== undefined) setText(cell.lag, lagText(topic));
    }
  }

  function row(topic) {
    const cell = { rate: h("td", { class: "number", "data-label": "Messages" }, "–"), lag: h("td", { class: "number", "data-label": "Lag" }, "–") };
    cells.set(topic.name, cell);
    return h("tr", {},
      h("th", { scope: "row" }, h("code", {}, topic.name)),
      h("td", { "data-label": "Role" }, topic.role),
      h("td", { "data-label": "Keeps" }, topic.kept),
      cell.rate, cell.lag,
      h("td", { "data-label": "Schemas" }, schemas(topic.schemas)));
  }

  async function read() {
    try {
      const { topics: list } = await get("topics");
      const columns = [{ text: "Topic" }, { text: "Role" }, { text: "Keeps" }, { text: "Messages", number: true }, { text: "Lag", number: true }, { text: "Schemas" }];
      topics.replaceChildren(table("Topics", columns, list.map(row)));
      show();
    } catch (error) {
      topics.replaceChildren(notices([["bad", error.message]]));
      announce(error.message);
    }
  }

  content.append(
    h("p", { class: "lead" }, prose("What each topic is for, how long it keeps a message, and the schemas of its values. `visitor topics` compares this with the cluster.")),
    h("section", {}, h("h2", {}, "Workers"), workers),
    h("section", {}, h("h2", {}, "Topics"), topics));
  read();
  return listen((state) => {
    latest = state.kafka;
    show();
  });
}
