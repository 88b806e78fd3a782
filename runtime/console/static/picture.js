// Draws the flow of the data: request topics, workers, PostgreSQL, and the topics that leave. The table of families
// below has the same numbers for those who do not see it.

import { h, s, setText } from "./dom.js";
import { compact, count, duration, plural, rate } from "./format.js";

const NARROW = 720;
const ROW = 32;
const GAP = 8;
const TOP = 28;
const WORKERS_SHOWN = 6;
const LATE_SECONDS = 2; // Workers commit once per second, so that a younger lag is normal.

function partitions(worker) {
  return plural(Object.values(worker.partitions).reduce((total, numbers) => total + numbers.length, 0), "partition");
}

export class Picture {
  constructor() {
    this.title = s("title", {}, "The flow of the data");
    this.svg = s("svg", { role: "img" }, this.title);
    this.element = h("figure", { class: "card picture" }, this.svg);
    this.parts = new Map();
    this.drawn = "";
    this.state = null;
    this.observer = new ResizeObserver(() => this.state && this.update(this.state));
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  update(state) {
    this.state = state;
    const width = Math.floor(this.svg.getBoundingClientRect().width);
    if (!width) return;
    const known = state.kafka.unavailable ? this.known : (this.known = state.kafka);
    if (!known) return;
    const workers = known.workers.length;
    const shape = `${width} ${workers} ${known.families.length}`;
    if (shape !== this.drawn) {
      this.drawn = shape;
      this.parts.clear();
      this.svg.replaceChildren(this.title);
      if (width < NARROW) this.#drawNarrow(width);
      else this.#drawWide(width, known);
    }
    this.#show(state, known);
  }

  // A box with a name at the left and a number at the right.
  #node(key, x, y, width, height, name) {
    const rateText = s("text", { class: "rate", x: x + width - 12, y: y + height / 2 + 4.5 });
    const lag = s("text", { class: "lag rate", x: x + width - 76, y: y + height / 2 + 4.5 });
    const group = s("g", {},
      s("rect", { class: "box", x, y, width, height, rx: 8 }),
      s("text", { x: x + 12, y: y + height / 2 + 4.5 }, name), lag, rateText);
    this.parts.set(key, { group, rateText, lag });
    this.svg.append(group);
  }

  // A box with lines of text.
  #block(key, x, y, width, height, name, lines) {
    const notes = Array.from({ length: lines }, (_, i) => s("text", { class: "note", x: x + 14, y: y + 44 + 18 * i }));
    const group = s("g", {},
      s("rect", { class: "group", x, y, width, height, rx: 10 }),
      s("text", { class: "title", x: x + 14, y: y + 24 }, name), notes);
    this.parts.set(key, { group, notes });
    this.svg.append(group);
  }

  // A box inside a block, with a name and a line of text.
  #inner(key, x, y, width, height, name) {
    const note = s("text", { class: "note", x: x + 12, y: y + 40 });
    const group = s("g", {}, s("rect", { class: "box", x, y, width, height, rx: 8 }), s("text", { x: x + 12, y: y + 21 }, name), note);
    this.parts.set(key, { group, note });
    this.svg.append(group);
  }

  // A connection, along which dashes move while something flows.
  #pipe(key, path) {
    const stream = s("path", { class: "stream", d: path });
    this.svg.append(s("path", { class: "pipe", d: path, "stroke-width": 2 }), stream);
    this.parts.set(`pipe ${key}`, { stream });
  }

  #drawWide(width, known) {
    const rows = known.families.length + 3;
    const height = TOP + rows * (ROW + GAP);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const side = Math.min(270, Math.round(width * 0.25));
    const block = Math.min(190, Math.round(width * 0.165));
    const gap = (width - 2 * side - 2 * block) / 3;
    const workersX = side + gap, databaseX = workersX + block + gap, outX = databaseX + block + gap;
    const y = (row) => TOP + row * (ROW + GAP);
    const middle = (row) => y(row) + ROW / 2;
    const curve = (x1, y1, x2, y2) => {
      const bend = (x2 - x1) * 0.5;
      return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
    };
    for (const [x, text] of [[0, "Requests"], [outX, "Results and changes"]]) {
      this.svg.append(s("text", { class: "column", x, y: 14 }, text));
    }
    // Connections first, so that boxes cover their ends.
    const first = 1, last = known.families.length;
    const inputs = [...known.families.map((family) => family.name), "queries"];
    inputs.forEach((name, i) => {
      const row = i + 1;
      this.#pipe(`in ${name}`, curve(side, middle(row), workersX, middle(row) * 0.86 + middle(rows / 2 - 0.5) * 0.14));
    });
    const workersBottom = y(rows - 1) + ROW;
    this.#pipe("results", curve(workersX + block, middle(0), outX, middle(0)));
    this.#pipe("replies", curve(workersX + block, middle(rows - 2), outX, middle(rows - 2)));
    this.#pipe("dead letters", curve(workersX + block, middle(rows - 1), outX, middle(rows - 1)));
    const center = (middle(first) + middle(last)) / 2;
    this.#pipe("commit", `M${workersX + block} ${center}H${databaseX}`);
    const outboxY = y(last) + ROW - 62;
    known.families.forEach((family, i) => {
      const target = middle(i + 1);
      this.#pipe(`out ${family.name}`, curve(databaseX + block, outboxY + 8 + (34 * (i + 0.5)) / last, outX, target));
    });
    inputs.forEach((name, i) => this.#node(`in ${name}`, 0, y(i + 1), side, ROW, name));
    this.#block("workers", workersX, y(0), block, workersBottom - y(0), "Workers", 2);
    known.workers.slice(0, WORKERS_SHOWN).forEach((_, i) =>
      this.#inner(`worker ${i}`, workersX + 10, y(0) + 76 + 60 * i, block - 20, 52, `worker ${i + 1}`));
    this.#block("database", databaseX, y(first), block, y(last) + ROW - y(first), "PostgreSQL", 2);
    const between = (outboxY - y(first) - 76) / 2;
    ["inbox", "tables", "outbox"].forEach((name, i) =>
      this.#inner(name, databaseX + 10, y(first) + 76 + between * i, block - 20, 52, name));
    this.#node("results", outX, y(0), side, ROW, "results");
    known.families.forEach((family, i) => this.#node(`out ${family.name}`, outX, y(i + 1), side, ROW, `${family.name} changes`));
    this.#node("replies", outX, y(rows - 2), side, ROW, "replies to HTTP");
    this.#node("dead letters", outX, y(rows - 1), side, ROW, "dead letters");
  }

  #drawNarrow(width) {
    const gap = 28;
    const center = width / 2;
    const rows = [["requests", ROW], ["reads", ROW]];
    let y = 4;
    const place = (height, space = gap) => {
      const top = y;
      y += height + space;
      return top;
    };
    const tops = rows.map(([, height]) => place(height, GAP));
    y += gap - GAP;
    const workers = place(74), database = place(128);
    const outputs = ["results", "replies", "changes", "dead letters"].map((name) => [name, place(ROW, GAP)]);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
    this.#pipe("in", `M${center} ${tops[1] + ROW}V${workers}`);
    this.#pipe("commit", `M${center} ${workers + 74}V${database}`);
    this.#pipe("out", `M${center} ${database + 128}V${outputs[0][1]}`);
    rows.forEach(([name], i) => this.#node(name, 0, tops[i], width, ROW, name));
    this.#block("workers", 0, workers, width, 74, "Workers", 2);
    this.#block("database", 0, database, width, 128, "PostgreSQL", 5);
    for (const [name, top] of outputs) this.#node(name, 0, top, width, ROW, name);
  }

  #show(state, known) {
    const { database } = state;
    const isDown = Boolean(state.kafka.unavailable);
    const isOld = database.oldestChangeSeconds > LATE_SECONDS;
    const sum = (topics, name) => topics.reduce((total, topic) => total + topic[name], 0);
    const requests = known.families.map((family) => family.requests);
    const changes = known.families.map((family) => family.changes);
    const total = {
      perSecond: sum(requests, "perSecond"), lag: sum(requests, "lag"), lagSeconds: Math.max(...requests.map((topic) => topic.lagSeconds)),
    };
    for (const family of known.families) {
      this.#number(`in ${family.name}`, family.requests, isDown);
      this.#number(`out ${family.name}`, { perSecond: family.changes.atMostPerSecond, isBound: true, waiting: isOld ? family.changes.waiting : 0 }, isDown);
    }
    this.#number("in queries", known.queries, isDown);
    this.#number("requests", total, isDown);
    this.#number("reads", known.queries, isDown);
    this.#flow("in", total.perSecond + known.queries.perSecond, isDown);
    this.#number("results", { perSecond: sum(known.families.map((family) => family.results), "perSecond") }, isDown);
    this.#number("replies", known.replies, isDown);
    this.#number("dead letters", known.deadLetters, isDown);
    this.#number("changes", { perSecond: database.changesPerSecond ?? 0, waiting: isOld ? sum(changes, "waiting") : 0 }, isDown);
    this.#flow("commit", total.perSecond, isDown || Boolean(database.unavailable));
    this.#flow("out", total.perSecond + known.queries.perSecond, isDown);
    this.#lines("workers", this.#workerLines(known), !known.workers.length || isDown);
    known.workers.slice(0, WORKERS_SHOWN).forEach((worker, i) => this.#note(`worker ${i}`, partitions(worker)));
    this.#showDatabase(database);
    setText(this.title, `Flow of the data: ${rate(total.perSecond)} requests and ${rate(known.queries.perSecond)} reads to `
      + `${plural(known.workers.length, "worker")}, ${rate(database.changesPerSecond ?? 0)} changes. The table of families has the numbers.`);
  }

  #workerLines({ workers, groups }) {
    const more = workers.length > WORKERS_SHOWN ? `, ${WORKERS_SHOWN} of them below` : "";
    const unstable = groups.find((group) => group.state !== "Stable");
    return [workers.length ? `${count(workers.length)} running${more}` : "none runs", unstable ? `group: ${unstable.state}` : "partitions are assigned"];
  }

  #showDatabase(database) {
    const isDown = Boolean(database.unavailable);
    const age = database.oldestChangeSeconds > LATE_SECONDS ? `, oldest ${duration(database.oldestChangeSeconds)}` : "";
    const notes = isDown ? {} : {
      inbox: `${compact(database.inboxRows)} answers`,
      tables: `${rate(database.changesPerSecond)} changes`,
      outbox: `${compact(database.outboxRows)} waiting${age}`,
    };
    for (const name of ["inbox", "tables", "outbox"]) this.#note(name, notes[name] ?? "");
    const locks = database.lockWaits ? `${count(database.lockWaits)} wait for a lock` : "";
    const isNarrow = !this.parts.has("inbox");
    const lines = isNarrow ? Object.entries(notes).map(([name, note]) => `${name}: ${note}`) : [];
    this.#lines("database", isDown ? ["does not answer"] : ["one transaction per batch", ...lines, locks].filter(Boolean), isDown);
  }

  #note(key, text) {
    const part = this.parts.get(key);
    if (part) setText(part.note, text);
  }

  #number(key, { perSecond, isBound = false, lag = 0, lagSeconds = 0, waiting = 0 }, isDown) {
    const part = this.parts.get(key);
    if (part) {
      setText(part.rateText, isDown ? "–" : `${isBound && perSecond ? "≤ " : ""}${rate(perSecond)}`);
      const late = lagSeconds > LATE_SECONDS ? `${compact(lag)} · ${duration(lagSeconds)}` : waiting ? `${compact(waiting)} wait` : "";
      setText(part.lag, isDown ? "" : late);
      part.group.setAttribute("class", [perSecond > 0 && "busy", late && "late"].filter(Boolean).join(" "));
    }
    this.#flow(key, perSecond, isDown);
  }

  #flow(key, perSecond, isDown) {
    const stream = this.parts.get(`pipe ${key}`)?.stream;
    if (!stream) return;
    const moves = perSecond > 0 && !isDown;
    stream.classList.toggle("moving", moves);
    // Wider and faster with the rate, on a logarithmic scale: 1/s and 1,000/s both can be seen.
    const size = Math.log10(1 + perSecond);
    stream.style.strokeWidth = (2 + size).toFixed(1);
    const seconds = `${(10 / (1 + size)).toFixed(1)}s`;
    if (stream.style.animationDuration !== seconds) stream.style.animationDuration = seconds;
  }

  #lines(key, lines, hasFailed) {
    const part = this.parts.get(key);
    part?.notes.forEach((note, i) => setText(note, lines[i] ?? ""));
    part?.group.classList.toggle("failed", hasFailed);
  }
}
