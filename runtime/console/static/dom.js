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

// Makes the children of an element like others, and keeps each that is already like it, so that the focus, open details
// and the cursor of a screen reader stay where they are. The others must have no listeners.
export function update(element, children) {
  children.forEach((next, i) => {
    const shown = element.childNodes[i];
    if (!shown) element.append(next);
    else if (!isSameTag(shown, next)) shown.replaceWith(next);
    else if (shown.nodeType === Node.TEXT_NODE) setText(shown, next.data);
    else update(shown, [...next.childNodes]);
  });
  while (element.childNodes.length > children.length) element.lastChild.remove();
}

function isSameTag(shown, next) {
  if (shown.nodeType === Node.TEXT_NODE) return next.nodeType === Node.TEXT_NODE;
  const tag = shown.cloneNode();
  if (tag.localName === "details") tag.open = next.open; // The operator opens and closes them.
  return tag.isEqualNode(next.cloneNode());
}

// Lets a screen reader say a text, even if it is the one that it said last.
export function announce(text) {
  document.getElementById("announcer").replaceChildren(text.replaceAll("`", ""));
}

export function field(label, control, attributes = {}) {
  return h("label", { class: "field", ...attributes }, h("span", {}, label), control);
}

// A text in which `commands` stand between backticks.
export function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}

// A name that may break before its dots, colons and capitals.
export function breakable(name) {
  return name.split(/(?=[.:A-Z])/).flatMap((part) => [part, h("wbr")]);
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
export function open(title, content, actions, attributes = {}) {
  const heading = h("h2", { id: "dialog-title", tabindex: "-1", autofocus: true }, title);
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", ...attributes },
    h("form", { method: "dialog", class: "stack" }, heading, h("div", { id: "dialog-content", class: "stack" }, content),
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

export const CLOSE = { text: "Close", value: "", quiet: true };

// A dialog with a short text, which a screen reader says as a whole.
export function ask(title, content, actions) {
  return open(title, content, actions, { role: "alertdialog", "aria-describedby": "dialog-content" });
}

export function tell(title, message) {
  return ask(title, notices([["bad", message]]), [CLOSE]);
}
