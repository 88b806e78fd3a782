// The live state of the installation, which several views show. It is followed while the tab is visible.

import { Refused, follow } from "./api.js";
import { announce } from "./dom.js";

const RETRY_MILLISECONDS = 3_000;
const POINTS = 150;

const listeners = new Set();
let latest = null;
let points = [];
let stop = null;

export const connection = document.getElementById("connection");

function show(text, isLive) {
  connection.hidden = false;
  connection.textContent = text;
  connection.classList.toggle("live", isLive);
}

function showLost() {
  if (connection.classList.contains("live")) announce("The edge does not answer. Reconnecting …");
  show("Reconnecting …", false);
}

function receive(state) {
  const after = points.length ? points[points.length - 1].time : "";
  points = [...points, ...state.points.filter((point) => point.time > after)].slice(-POINTS);
  latest = { ...state, points };
  if (connection.textContent === "Reconnecting …") announce("Live again.");
  show("Live", true);
  for (const listener of listeners) listener(latest);
}

async function run(signal) {
  while (!signal.aborted) {
    try {
      await follow("events", signal, receive);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
        show("Signed out", false);
        return;
      }
    }
    if (!signal.aborted) showLost();
    await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
  }
}

export function start() {
  end();
  stop = new AbortController();
  show("Connecting …", false);
  run(stop.signal);
}

export function end() {
  stop?.abort();
  stop = null;
  connection.hidden = true;
}

// Calls the listener with each state, and with the latest one now. Returns the function that stops this.
export function listen(listener) {
  listeners.add(listener);
  if (latest) listener(latest);
  return () => listeners.delete(listener);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stop?.abort();
  } else if (stop?.signal.aborted) {
    start();
  }
});
