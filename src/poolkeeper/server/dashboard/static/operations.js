// The operations: how far each is, and what a person may do to it.

import { order } from "./controls.js";
import { byId, make, reconcile, setText } from "./dom.js";
import { age, clock, count, plural, rate } from "./format.js";
import { fillBadge, row } from "./tables.js";

const LEVELS = { running: "good", pending: "", paused: "warn", failed: "bad", done: "", cancelled: "" };
const OVER = new Set(["done", "cancelled"]);

const VERBS = {
  pause: { label: "Pause", when: ["pending", "running"], done: "is paused" },
  resume: { label: "Resume", when: ["paused"], done: "goes on" },
  retry: { label: "Retry", when: ["failed"], done: "goes on where it failed" },
  cancel: {
    label: "Cancel…",
    when: ["pending", "running", "paused", "failed"],
    done: "is cancelled",
    ask: {
      title: "Cancel the operation?",
      text: "It cannot be taken up again. What it has committed so far stays.",
      yes: "Cancel the operation",
    },
  },
};

const states = new Map();

/**
 * @param {{operations: object[], trouble: string | null}} news
 * @param {{steer: boolean, say: (text: string) => void, confirm: (ask: object) => void}} page
 */
export function drawOperations({ operations, trouble }, page) {
  byId("operations-card").hidden = operations.length === 0;
  const table = byId("operations").tBodies[0];
  reconcile(table, operations, (one) => one.id, () => row(7, table), (node, one) => {
    const [name, state, progress, rows, pace, owner, actions] = node.children;
    fillName(name, one);
    fillBadge(state, one.state, LEVELS[one.state]);
    fillProgress(progress, one);
    setText(rows, count(one.rows_done) + (one.rows_rejected ? `, ${count(one.rows_rejected)} rejected` : ""));
    setText(pace, paceOf(one));
    setText(owner, `${one.owner ?? "—"}${one.outages ? `, ${plural(one.outages, "outage")} ridden out` : ""}`);
    fillActions(actions, one, page);
    rows.className = "num";
  });
  const unfinished = operations.filter((one) => !OVER.has(one.state)).length;
  setText(byId("operations-sum"), trouble ? `as they were last seen: ${trouble}` : unfinished ? `${count(unfinished)} unfinished` : "all are over");
  announceEnds(operations, page.say);
}

function fillName(cell, one) {
  if (!cell.firstChild) cell.append(make("div", "strong"), make("div", "muted"), make("div", "message"));
  const [name, kind, message] = cell.children;
  setText(name, one.name);
  const when = one.finished_at ? `, ${OVER.has(one.state) ? "over" : "stopped"} since ${clock(one.finished_at)}` : `, since ${clock(one.created_at)}`;
  setText(kind, one.kind + when);
  setText(message, one.error ?? (one.waiting_for ? `Waits: ${one.waiting_for}` : ""));
  message.classList.toggle("error-text", one.state === "failed");
}

function fillProgress(cell, one) {
  if (!cell.firstChild) cell.append(make("progress"), make("span", "muted"));
  const [bar, words] = cell.children;
  bar.max = 1;
  bar.setAttribute("aria-label", `Progress of ${one.name}`);
  if (one.fraction === null) bar.removeAttribute("value");
  else bar.value = one.fraction;
  // Nobody knows how far it is, and it does not move: no bar that looks as if it did.
  bar.hidden = one.fraction === null && one.state !== "running";
  setText(words, one.fraction === null ? (bar.hidden ? "—" : "") : `${percent(one)} %`);
}

/** Rounded down: 100 is only what is done. */
function percent(one) {
  const whole = Math.floor(one.fraction * 100);
  return one.state === "done" ? 100 : Math.min(99, whole);
}

function paceOf(one) {
  if (one.elapsed_seconds !== null) return `took ${age(one.elapsed_seconds)}`;
  if (one.state !== "running" || one.rows_per_second === null) return "—";
  const left = one.seconds_left === null ? "" : `, ${age(Math.ceil(one.seconds_left))} left`;
  return `${rate(one.rows_per_second)} rows/s${left}`;
}

function fillActions(cell, one, page) {
  const offered = page.steer ? Object.keys(VERBS).filter((verb) => VERBS[verb].when.includes(one.state)) : [];
  cell.className = "actions";
  reconcile(cell, offered, (verb) => verb, (verb) => {
    const button = make("button", "", VERBS[verb].label);
    button.type = "button";
    button.setAttribute("aria-label", `${VERBS[verb].label.replace("…", "")} ${one.name}`);
    button.addEventListener("click", () => act(verb, one, button, page));
    return button;
  });
}

async function act(verb, { id, name }, button, page) {
  const path = `/v1/operations/${id}/${verb}`;
  const { ask, done } = VERBS[verb];
  if (ask) {
    page.confirm({ ...ask, text: `${name}: ${ask.text}`, path, done: `${name} ${done}.` });
    return;
  }
  button.disabled = true;
  const failure = await order(path);
  button.disabled = false;
  page.say(failure ?? `${name} ${done}.`);
  setText(byId("operations-error"), failure ?? "");
}

/** Tell screen readers what ended while they were here, not every row. */
function announceEnds(operations, say) {
  for (const { id, name, state } of operations) {
    const before = states.get(id);
    states.set(id, state);
    if (before && before !== state && ["done", "failed"].includes(state)) say(`${name} ${state === "done" ? "is done" : "has failed"}.`);
  }
}
