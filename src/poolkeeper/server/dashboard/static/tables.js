// Outages, running requests, errors and slow requests as tables.

import { byId, make, reconcile, setText } from "./dom.js";
import { age, clock, count, duration, iso, plural } from "./format.js";
import { causeInWords } from "./state.js";

const DAY = 86400;

export function drawOutages(outages, { startedAt, at }) {
  const newest = [...outages].reverse();
  const table = byId("outages").tBodies[0];
  reconcile(table, newest, (one) => one.began_at, () => row(6), (node, one) => {
    const [began, lasted, cause, detected, lost, attempts] = node.children;
    fillTime(began, one.began_at);
    const open = one.ended_at === null;
    setText(lasted, open ? `${age(at - one.began_at)} so far` : duration(one.seconds));
    node.classList.toggle("present", open);
    fillTwo(cause, causeInWords(one.cause), one.failover ? `${one.error ?? ""} Now served by ${one.failover}.` : one.error);
    setText(detected, duration(one.detection_seconds));
    setText(lost, count(one.connections_lost));
    setText(attempts, count(one.attempts));
    for (const cell of [detected, lost, attempts]) cell.className = "num";
  });
  showOrSay("outages", outages.length > 0);
  const from = Math.max(Math.min(startedAt, outages[0]?.began_at ?? startedAt, at - 600), at - DAY);
  const inside = outages.filter((one) => (one.ended_at ?? at) >= from);
  const seconds = inside.reduce((all, one) => all + ((one.ended_at ?? at) - Math.max(one.began_at, from)), 0);
  setText(byId("outages-sum"), outages.length ? `${plural(outages.length, "outage")}, ${duration(seconds)} in all since ${clock(from)}` : "");
  setText(byId("strip-from"), clock(from));
  reconcile(byId("strip"), inside, (one) => one.began_at, () => make("i"), (node, one) => {
    const start = (Math.max(one.began_at, from) - from) / (at - from);
    const end = ((one.ended_at ?? at) - from) / (at - from);
    node.style.left = `${start * 100}%`;
    node.style.width = `${(end - start) * 100}%`;
  });
}

export function drawRunning(now) {
  const { running } = now;
  reconcile(byId("running").tBodies[0], running, (one) => one.request_id, () => row(7), (node, one) => {
    const [state, held, statement, waited, backend, token, request] = node.children;
    const waiting = one.state === "waiting";
    fillBadge(state, waiting ? "waiting" : "running", waiting ? "warn" : "good");
    setText(held, duration(waiting ? one.waited_seconds : one.held_seconds));
    fillStatement(statement, one.statement);
    setText(waited, duration(one.waited_seconds));
    setText(backend, one.backend_pid ?? "—");
    setText(token, one.token ?? "—");
    fillId(request, one.request_id);
    for (const cell of [held, waited, backend]) cell.className = "num";
  });
  showOrSay("running", running.length > 0);
  const hidden = now.running_total - running.length;
  const holders = running.filter((one) => one.state === "running").length;
  setText(
    byId("running-sum"),
    running.length ? `${count(holders)} running, ${count(now.running_total - holders)} waiting${hidden ? `; the oldest ${running.length} are shown` : ""}` : "",
  );
}

export function drawErrors(errors) {
  reconcile(byId("errors").tBodies[0], errors, keyOf, () => row(6), (node, one) => {
    const [time, status, outcome, message, took, request] = node.children;
    fillTime(time, one.at);
    fillBadge(status, String(one.status), one.status === 503 ? "warn" : one.status >= 500 && one.status !== 507 ? "bad" : "plain", one.kind);
    setText(outcome, (one.outcome ?? "—").replaceAll("_", " "));
    outcome.classList.toggle("strong", one.outcome === "unknown");
    fillMessage(message, one);
    setText(took, duration(one.seconds));
    took.className = "num";
    fillId(request, one.request_id);
  });
  showOrSay("errors", errors.length > 0);
  setText(byId("errors-sum"), errors.length ? `the latest ${errors.length}` : "");
}

export function drawSlow(slow, threshold) {
  reconcile(byId("slow").tBodies[0], slow, keyOf, () => row(6), (node, one) => {
    const [time, took, statement, status, token, request] = node.children;
    fillTime(time, one.at);
    setText(took, duration(one.seconds));
    took.className = "num strong";
    fillStatement(statement, one.statement);
    setText(status, String(one.status));
    setText(token, one.token ?? "—");
    fillId(request, one.request_id);
  });
  setText(byId("slow-empty"), `None of ${duration(threshold)} or more since the server was started.`);
  showOrSay("slow", slow.length > 0);
  setText(byId("slow-sum"), slow.length ? `${duration(threshold)} or more` : "");
}

const keyOf = (one) => `${one.request_id} ${one.at}`;

function showOrSay(name, some) {
  byId(`${name}-scroll`).hidden = !some;
  byId(`${name}-empty`).hidden = some;
}

function row(cells) {
  const node = make("tr");
  for (let i = 0; i < cells; i += 1) node.append(make("td"));
  return node;
}

function fillTime(cell, at) {
  if (!cell.firstChild) cell.append(make("time"));
  cell.firstChild.dateTime = iso(at);
  setText(cell.firstChild, clock(at));
}

function fillBadge(cell, text, level, detail) {
  if (!cell.firstChild) cell.append(make("span"), make("span", "kind"));
  cell.firstChild.className = `badge ${level}`;
  setText(cell.firstChild, text);
  setText(cell.lastChild, detail ?? "");
}

function fillTwo(cell, first, second) {
  if (!cell.firstChild) cell.append(make("div"), make("div", "muted wrap"));
  setText(cell.firstChild, first);
  setText(cell.lastChild, second ?? "");
}

function fillMessage(cell, one) {
  if (!cell.firstChild) cell.append(make("div", "message wrap"), make("div"));
  setText(cell.firstChild, one.message ?? one.kind ?? "");
  fillStatement(cell.lastChild, one.statement);
}

/** A short statement as it is; of a long one the beginning, the rest on demand. */
function fillStatement(cell, statement) {
  const text = statement ?? "—";
  if (cell.dataset.text === text) return;
  cell.dataset.text = text;
  const line = text.replace(/\s+/g, " ").trim();
  if (line.length <= 120) {
    cell.replaceChildren(make("code", "sql", line));
    return;
  }
  const details = make("details", "sql-more");
  const summary = make("summary");
  summary.append(make("code", "sql", `${line.slice(0, 110)} …`));
  const whole = make("pre", "sql");
  whole.textContent = text;
  details.append(summary, whole);
  cell.replaceChildren(details);
}

function fillId(cell, id) {
  if (!cell.firstChild) cell.append(make("code", "id"));
  setText(cell.firstChild, id);
}
