// Makes elements. Texts become text nodes, so nothing that the service sends is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

// Sets a text only if it differs, so that assistive technology is not disturbed.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Lets a screen reader say a text.
export function announce(text) {
  setText(document.getElementById("announcer"), text);
}

export function field(label, control, attributes = {}) {
  return h("label", { class: "field", ...attributes }, h("span", {}, label), control);
}

// A text in which `commands` stand between backticks.
export function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}

// A message with a word that says how serious it is: ok, warn, bad or note.
export function notice(level, message) {
  const words = { ok: "OK", warn: "Warning", bad: "Problem", note: "Note" };
  return h("li", { class: `notice ${level}` }, h("span", {}, words[level]), h("span", {}, prose(message)));
}

export function notices(entries) {
  return h("ul", { class: "notices" }, entries.map(([level, message]) => notice(level, message)));
}

export function table(caption, headings, rows) {
  return h("div", { class: "card flush scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { class: "cards" },
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, headings.map((heading) =>
        h("th", { scope: "col", class: heading.number && "number" }, heading.text)))),
      h("tbody", {}, rows)));
}

// Opens a modal dialog, which Escape closes. Resolves to the value of the button that closed it, or "".
export function ask(title, content, actions) {
  const heading = h("h2", { id: "dialog-title", tabindex: "-1", autofocus: true }, title);
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("form", { method: "dialog", class: "stack" }, heading, content,
      h("div", { class: "actions" }, actions.map(({ text, value, quiet }) =>
        h("button", { value, class: quiet && "quiet" }, text)))));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue);
      dialog.remove();
    });
  });
}
