// What a person can do here: show a token, choose colours, steer the server.

import { byId, setText } from "./dom.js";

const TOKEN = "poolkeeper.token";

let token = read();

export const hasToken = () => token !== null;

/** What shows the token to the server. A header carries bytes: those of UTF-8, one per character. */
export function authorization() {
  if (token === null) return {};
  return { Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}` };
}

/** Ask for the token; `use` is called once there is one to try. */
export function setUpGate(use) {
  byId("gate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("gate-token").value.trim();
    if (!given) return;
    token = given;
    keep(given);
    setText(byId("gate-error"), "");
    use();
  });
  byId("forget").addEventListener("click", () => {
    token = null;
    keep(null);
    location.reload();
  });
}

export function openGate({ wrong, detail }) {
  if (wrong) {
    token = null;
    keep(null);
  }
  const error = byId("gate-error");
  setText(error, detail ?? (wrong ? "The server does not know this token. Check it and try again." : ""));
  byId("gate").hidden = false;
  const field = byId("gate-token");
  field.toggleAttribute("aria-invalid", Boolean(wrong));
  field.focus();
  field.select();
}

export function closeGate() {
  const had = !byId("gate").hidden;
  byId("gate").hidden = true;
  byId("gate-token").value = "";
  byId("forget").hidden = !token;
  if (had) byId("main").focus();
}

/** The button of theme.js; `changed` is called when the colours are others. */
export function setUpTheme(changed) {
  const root = document.documentElement;
  const show = () => byId("theme").setAttribute("aria-pressed", String(root.dataset.theme === "dark"));
  byId("theme").addEventListener("click", () => root.dispatchEvent(new Event("themetoggle")));
  root.addEventListener("themechange", () => {
    show();
    changed();
  });
  show();
}

const VERBS = {
  pause: {
    title: "Pause the server?",
    text: "Statements that run go on; new requests wait in the queue, each within its own time limit, until somebody resumes. PostgreSQL can be restarted meanwhile.",
    yes: "Pause",
    path: "/admin/pause?wait=0",
    done: "Paused.",
  },
  resume: {
    title: "Resume the server?",
    text: "Connections are given to waiting requests again, those that have waited longest first.",
    yes: "Resume",
    path: "/admin/resume",
    done: "Resumed.",
  },
  reconnect: {
    title: "Replace all connections?",
    text: "Idle connections are closed now, those in use when they come back; new ones are opened as they are needed. No statement is disturbed.",
    yes: "Reconnect",
    path: "/admin/reconnect",
    done: "Connections are being replaced.",
  },
};

let verb = null;

/** Ask before something is done: what to say, and the path it is ordered at. */
export function confirm(wanted) {
  verb = wanted;
  setText(byId("confirm-title"), verb.title);
  setText(byId("confirm-text"), verb.text);
  setText(byId("confirm-yes"), verb.yes);
  setText(byId("confirm-error"), "");
  byId("confirm").showModal();
  byId("confirm-no").focus();
}

/** Buttons that ask before they do something; `say` tells what came of it. */
export function setUpActions(say) {
  const dialog = byId("confirm");
  for (const name of Object.keys(VERBS)) byId(name).addEventListener("click", () => confirm(VERBS[name]));
  byId("confirm-no").addEventListener("click", () => dialog.close());
  byId("confirm-yes").addEventListener("click", async (event) => {
    event.preventDefault();
    const failure = await order(verb.path);
    if (failure) {
      setText(byId("confirm-error"), failure);
      return;
    }
    dialog.close();
    say(verb.done);
  });
}

export async function order(path) {
  try {
    const response = await fetch(path, { method: "POST", headers: authorization(), credentials: "omit" });
    if (response.ok) return null;
    const problem = await response.json().catch(() => ({}));
    return problem.detail ?? `The server answered ${response.status}.`;
  } catch {
    return "The server could not be reached. Try again when it is back.";
  }
}

function read() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

function keep(value) {
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, value);
  } catch {
    // without storage the token lasts as long as the page
  }
}
