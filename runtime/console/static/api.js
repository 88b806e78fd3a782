// Calls the console's endpoints. The key stays in this tab: a browser sends no header of its own on a navigation, so
// each call adds it.

const KEY = "visitor-console-key";

export class Refused extends Error {
  constructor(status, errors) {
    super(errors.map((error) => error.message).join(" ") || `The edge answered ${status}.`);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(`/console/api/${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, [{ message: "The edge does not answer." }]);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Refused(response.status, body.errors ?? []);
  }
  return response;
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== ""));
  return (await call(`${path}?${query}`)).json();
}

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return (await call(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

// Follows the server-sent events until the signal aborts. EventSource cannot send the key.
export async function follow(path, signal, receive) {
  const response = await call(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (buffer + value).split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) receive(JSON.parse(event.slice(6)));
    }
  }
}
