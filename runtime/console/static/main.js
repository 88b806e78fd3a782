// Signs the operator in, and shows the view that the address names.

import { Refused, get, key } from "./api.js";
import { announce, ask, field, h, notices } from "./dom.js";
import * as live from "./live.js";
import { deadLettersView } from "./dead-letters.js";
import { flowView } from "./flow.js";
import { requestView } from "./request.js";
import { topicsView } from "./topics.js";
import { visitorView } from "./visitor.js";

const VIEWS = {
  flow: ["Flow", flowView],
  request: ["Request", requestView],
  "dead-letters": ["Dead letters", deadLettersView],
  visitor: ["Visitor", visitorView],
  topics: ["Topics", topicsView],
};

const main = document.getElementById("main");
const nav = document.querySelector(".bar nav");
const signOut = document.getElementById("sign-out");
let leave = null;

function showView(focus) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = path in VIEWS ? path : "flow";
  const [title, view] = VIEWS[name];
  leave?.();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  for (const link of nav.children) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} · Visitor service`;
  const heading = h("h1", { tabindex: "-1" }, title);
  const content = h("div", { class: "stack" });
  main.replaceChildren(h("div", { class: "head" }, heading), content);
  leave = view(content, new URLSearchParams(query)) ?? null;
  if (focus) heading.focus();
}

function showSignIn(message) {
  leave?.();
  leave = null;
  live.end();
  nav.hidden = signOut.hidden = true;
  document.title = "Sign in · Visitor service";
  const input = h("input", { type: "password", name: "key", required: true, autocomplete: "off", class: "mono" });
  const form = h("form", {
    submit: (event) => {
      event.preventDefault();
      key.set(input.value.trim());
      open(true);
    },
  }, field("API key with the scope “operator”", input), h("button", {}, "Sign in"));
  main.replaceChildren(h("div", { class: "sign-in card" },
    h("h1", {}, "Sign in"),
    h("p", { class: "lead" }, "The key stays in this tab until you close it or sign out."),
    message && notices([["bad", message]]),
    form));
  input.focus();
  if (message) announce(message);
}

async function open(focus) {
  try {
    const session = await get("session");
    nav.hidden = false;
    signOut.hidden = !session.signedIn;
    live.start();
    showView(focus);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const hadKey = key.get() !== null;
    if (error.status === 401) {
      key.forget();
      showSignIn(hadKey ? error.message : null);
    } else if (error.status === 403 && hadKey) {
      key.forget();
      showSignIn(error.message);
    } else {
      main.replaceChildren(notices([["bad", error.message]]), h("button", { click: () => open(true) }, "Try again"));
      announce(error.message);
    }
  }
}

signOut.addEventListener("click", async () => {
  const answer = await ask("Sign out?", h("p", {}, "This tab forgets the key."),
    [{ text: "Stay", value: "", quiet: true }, { text: "Sign out", value: "yes" }]);
  if (answer) {
    key.forget();
    open(true);
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address names the view, so that the link must not change it.
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => {
  if (!nav.hidden) showView(true);
});
open(false);
