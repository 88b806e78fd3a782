// Draws the flow of the data: request topics, workers with their lanes, PostgreSQL, and the topics that leave. The table
// of families and the list of workers have the same numbers for those who do not see it.

import { h, s, setText } from "./dom.js";
import { brief, compact, count, duration, plural, rate } from "./format.js";
import { isLate, lanesOf, mostLate, name as laneName, summary, topicsOf } from "./lanes.js";

const NARROW = 1040;
const ROW = 32;
const GAP = 8;
const TOP = 28;
// Widths, in which texts of 12 and 13 pixels must fit.
const WORKERS = 216;
const DATABASE = 190;
const SIDE = 280;
const PIPE = 32;
const WORKERS_SHOWN = 5;
const WORKER_HEIGHT = 180;
const LANE = 10;
const LANES_CAPTION = "A lane is the queue of one partition in a worker. Its bar is higher the more messages it has: 1, 10, 100, 1,000. "
  + "It is orange if the oldest has waited for more than two seconds.";

// How high the bar of a lane is, from 0 to 1, on a logarithmic scale.
function fill(lag) {
  return lag ? Math.min(1, (1 + Math.log10(lag)) / 4) : 0;
}

function most(lanes) {
  const lane = mostLate(lanes);
  return lane ? `most: ${laneName(lane)}, ${lane.lagSeconds === null ? brief(lane.lag) : duration(lane.lagSeconds)}` : "";
}

function lateness(lanes) {
  return lanes.some((lane) => isLate(lane.lagSeconds)) ? "late" : "";
}

export class Picture {
  constructor() {
    this.title = s("title", {}, "The flow of the data");
    this.svg = s("svg", { role: "img" }, this.title);
    this.element = h("figure", { class: "card picture" }, this.svg, h("figcaption", { class: "muted" }, LANES_CAPTION));
    this.parts = new Map();
    this.drawn = "";
    this.state = null;
    this.known = null; // What Kafka had when it answered last.
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
    const lag = s("tspan", { class: "lag" });
    const rateText = s("tspan");
    const group = s("g", {},
      s("rect", { class: "box", x, y, width, height, rx: 8 }),
      s("text", { x: x + 12, y: y + height / 2 + 4.5 }, name),
      s("text", { class: "rate", x: x + width - 12, y: y + height / 2 + 4.5 }, lag, rateText));
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

  // A box inside a block, with a name and lines of text.
  #inner(key, x, y, width, height, name, lines = 1) {
    const notes = Array.from({ length: lines }, (_, i) => s("text", { class: "note", x: x + 12, y: y + 38 + 15 * i }));
    const group = s("g", {}, s("rect", { class: "box", x, y, width, height, rx: 8 }), s("text", { x: x + 12, y: y + 21 }, name), notes);
    this.parts.set(key, { group, notes });
    this.svg.append(group);
  }

  // The space for the bars of lanes.
  #lanes(key, x, y, width, height) {
    const bars = ["idle", "waiting", "late"].map((kind) => s("path", { class: `bars ${kind}` }));
    this.svg.append(...bars);
    this.parts.set(`lanes ${key}`, { bars, x, y, width, height });
  }

  // A connection, along which dashes move while something flows.
  #pipe(key, path) {
    const stream = s("path", { class: "stream", d: path });
    this.svg.append(s("path", { class: "pipe", d: path, "stroke-width": 2 }), stream);
    this.parts.set(`pipe ${key}`, { stream });
  }

  // With room for the borders of the outer boxes.
  #resize(width, height) {
    this.svg.setAttribute("viewBox", `-1 0 ${width + 2} ${height}`);
  }

  #drawWide(width, known) {
    const rows = known.families.length + 3;
    const height = TOP + rows * (ROW + GAP);
    this.#resize(width, height);
    const side = Math.min(SIDE, Math.round((width - WORKERS - DATABASE - 3 * PIPE) / 2));
    const gap = (width - 2 * side - WORKERS - DATABASE) / 3;
    const workersX = side + gap, databaseX = workersX + WORKERS + gap, outX = databaseX + DATABASE + gap;
    const workersEnd = workersX + WORKERS, databaseEnd = databaseX + DATABASE;
    const y = (row) => TOP + row * (ROW + GAP);
    const middle = (row) => y(row) + ROW / 2;
    const curve = (x1, y1, x2, y2) => {
      const bend = (x2 - x1) * 0.5;
      return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
    };
    for (const [x, row, text] of [[0, 1, "Requests"], [outX, 0, "Results and changes"]]) {
      this.svg.append(s("text", { class: "column", x, y: y(row) - 14 }, text));
    }
    // Connections first, so that boxes cover their ends.
    const first = 1, last = known.families.length;
    const inputs = [...known.families.map((family) => family.name), "queries"];
    inputs.forEach((name, i) => {
      const row = i + 1;
      this.#pipe(`in ${name}`, curve(side, middle(row), workersX, middle(row) * 0.86 + middle(rows / 2 - 0.5) * 0.14));
    });
    const workersBottom = y(rows - 1) + ROW;
    this.#pipe("results", curve(workersEnd, middle(0), outX, middle(0)));
    this.#pipe("replies", curve(workersEnd, middle(rows - 2), outX, middle(rows - 2)));
    this.#pipe("dead letters", curve(workersEnd, middle(rows - 1), outX, middle(rows - 1)));
    const center = (middle(first) + middle(last)) / 2;
    this.#pipe("commit", `M${workersEnd} ${center}H${databaseX}`);
    const outboxY = y(last) + ROW - 62;
    known.families.forEach((family, i) => {
      const target = middle(i + 1);
      this.#pipe(`out ${family.name}`, curve(databaseEnd, outboxY + 8 + (34 * (i + 0.5)) / last, outX, target));
    });
    inputs.forEach((name, i) => this.#node(`in ${name}`, 0, y(i + 1), side, ROW, name));
    this.#block("workers", workersX, y(0), WORKERS, workersBottom - y(0), "Workers", 2);
    const top = y(0) + 74;
    const shown = known.workers.slice(0, WORKERS_SHOWN);
    const workerHeight = Math.min(WORKER_HEIGHT, (workersBottom - 10 - top + GAP) / shown.length - GAP);
    shown.forEach((_, i) => {
      const workerY = top + (workerHeight + GAP) * i;
      this.#inner(`worker ${i}`, workersX + 10, workerY, WORKERS - 20, workerHeight, `worker ${i + 1}`, 2);
      this.#lanes(`worker ${i}`, workersX + 22, workerY + 60, WORKERS - 44, workerHeight - 68);
    });
    this.#block("database", databaseX, y(first), DATABASE, y(last) + ROW - y(first), "PostgreSQL", 1);
    const between = (outboxY - y(first) - 60) / 2;
    ["inbox", "tables", "outbox"].forEach((name, i) =>
      this.#inner(name, databaseX + 10, y(first) + 60 + between * i, DATABASE - 20, 52, name));
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
    const workers = place(126), database = place(112);
    const outputs = ["results", "replies", "changes", "dead letters"].map((name) => [name, place(ROW, GAP)]);
    this.#resize(width, y);
    this.#pipe("in", `M${center} ${tops[1] + ROW}V${workers}`);
    this.#pipe("commit", `M${center} ${workers + 126}V${database}`);
    this.#pipe("out", `M${center} ${database + 112}V${outputs[0][1]}`);
    rows.forEach(([name], i) => this.#node(name, 0, tops[i], width, ROW, name));
    this.#block("workers", 0, workers, width, 126, "Workers", 3);
    this.#lanes("all", 14, workers + 90, width - 28, 26);
    this.#block("database", 0, database, width, 112, "PostgreSQL", 4);
    for (const [name, top] of outputs) this.#node(name, 0, top, width, ROW, name);
  }

  #show(state, known) {
    const { database } = state;
    const isDown = Boolean(state.kafka.unavailable);
    const isOld = isLate(database.oldestChangeSeconds);
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
    this.#showWorkers(known, isDown);
    this.#showDatabase(database);
    const lanes = lanesOf(known.workers, known);
    const inLanes = known.workers.length && !isDown ? ` with ${[summary(lanes), most(lanes)].filter(Boolean).join("; ")}` : "";
    setText(this.title, `Flow of the data: ${rate(total.perSecond)} requests and ${rate(known.queries.perSecond)} reads to `
      + `${plural(known.workers.length, "worker")}${inLanes}. ${rate(database.changesPerSecond ?? 0)} changes. The tables below have the numbers.`);
  }

  #showWorkers(known, isDown) {
    const { workers, groups } = known;
    const lanes = lanesOf(known.workers, known);
    const isNarrow = this.parts.has("lanes all");
    const more = workers.length > WORKERS_SHOWN && !isNarrow ? `, ${WORKERS_SHOWN} of them below` : "";
    const unstable = groups.find((group) => group.state !== "Stable");
    const lines = isDown ? ["not known"]
      : [workers.length ? `${count(workers.length)} running${more}` : "none runs", unstable ? `group: ${unstable.state}` : summary(lanes)];
    const hasFailed = !workers.length || isDown;
    this.#lines("workers", isNarrow && !isDown ? [...lines, most(lanes)] : lines, hasFailed ? "failed" : isNarrow ? lateness(lanes) : "");
    this.#showLanes("all", isDown ? [] : lanes);
    workers.slice(0, WORKERS_SHOWN).forEach((worker, i) => {
      const own = isDown ? [] : lanesOf([worker], known);
      this.#lines(`worker ${i}`, isDown ? [] : [summary(own), most(own)], lateness(own));
      this.#showLanes(`worker ${i}`, own);
    });
  }

  #showLanes(key, lanes) {
    const part = this.parts.get(`lanes ${key}`);
    if (!part) return;
    const { x, y, width, height, bars: [idle, waiting, late] } = part;
    // The width of one bar separates the topics.
    const topics = topicsOf(lanes);
    const step = Math.min(LANE, width / (lanes.length + topics.length - 1));
    const bar = (lane, i) => {
      const barX = x + step * (i + topics.indexOf(lane.topic));
      const barHeight = Math.max(1, height * fill(lane.lag));
      return `M${barX.toFixed(1)} ${(y + height - barHeight).toFixed(1)}v${barHeight.toFixed(1)}h${(step * 0.7).toFixed(1)}v${(-barHeight).toFixed(1)}Z`;
    };
    const draw = (path, isShown) => path.setAttribute("d", lanes.map((lane, i) => (isShown(lane) ? bar(lane, i) : "")).join(""));
    draw(idle, (lane) => !lane.lag);
    draw(waiting, (lane) => lane.lag && !isLate(lane.lagSeconds));
    draw(late, (lane) => isLate(lane.lagSeconds));
  }

  #showDatabase(database) {
    const isDown = Boolean(database.unavailable);
    const isOld = isLate(database.oldestChangeSeconds);
    const age = isOld ? ` · ${duration(database.oldestChangeSeconds)}` : "";
    const notes = isDown ? {} : {
      inbox: `${compact(database.inboxRows)} answers`,
      tables: `${rate(database.changesPerSecond)} changes`,
      outbox: `${compact(database.outboxRows)} waiting${age}`,
    };
    for (const name of ["inbox", "tables", "outbox"]) this.#lines(name, [notes[name]], name === "outbox" && isOld ? "late" : "");
    const first = database.lockWaits ? `waiting for a lock: ${count(database.lockWaits)}` : "one transaction per batch";
    const isNarrow = !this.parts.has("inbox");
    const lines = isNarrow ? Object.entries(notes).map(([name, note]) => `${name}: ${note}`) : [];
    this.#lines("database", isDown ? ["does not answer"] : [first, ...lines], isDown ? "failed" : isNarrow && isOld ? "late" : "");
  }

  #number(key, { perSecond, isBound = false, lag = 0, lagSeconds = 0, waiting = 0 }, isDown) {
    const part = this.parts.get(key);
    if (part) {
      setText(part.rateText, isDown ? "–" : `${isBound && perSecond ? "≤ " : ""}${rate(perSecond)}`);
      const late = isLate(lagSeconds) ? `${brief(lag)} · ${duration(lagSeconds)}` : waiting ? `${brief(waiting)} ${waiting === 1 ? "waits" : "wait"}` : "";
      setText(part.lag, isDown ? "" : late);
      part.rateText.setAttribute("dx", part.lag.textContent ? 12 : 0);
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

  #lines(key, lines, style) {
    const part = this.parts.get(key);
    part?.notes.forEach((note, i) => setText(note, lines[i] ?? ""));
    part?.group.setAttribute("class", style);
  }
}
