// Outages, running requests, errors and slow requests as tables.

import { byId, make, reconcile, setText } from "./dom.js";
import { age, clock, count, duration, iso, plural } from "./format.js";
import { causeInWords } from "./state.js";

const DAY = 86400;
const SHORT = 100;

export function drawOutages(outages, { startedAt, at }) {
  const newest = [...outages].reverse();
  const table = byId("outages").tBodies[0];
  reconcile(table, newest, (one) => one.began_at, () => row(6, table), (node, one) => {
    const [began, lasted, cause, detected, lost, attempts] = node.children;
    fillTime(began, one.began_at);
    const open = one.ended_at === null;
    setText(lasted, open ? `${age(at - one.began_at)} so far` : duration(one.seconds));
    node.classList.toggle("present", open);
    const error = one.error ?? one.last_error ?? "";
    fillTwo(cause, causeInWords(one.cause), one.failover ? `${error} Served by ${one.failover} since.` : error);
    setText(detected, duration(one.detection_seconds));
    setText(lost, count(one.connections_lost));
    setText(attempts, count(one.attempts));
    for (const cell of [detected, lost, attempts]) cell.className = "num";
  });
  showOrSay("outages", outages.length > 0);
  const from = Math.max(Math.min(startedAt, outages[0]?.began_at ?? startedAt, at - 1), at - DAY);
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
  reconcile(byId("running").tBodies[0], running, (one) => one.request_id, () => row(7, byId("running")), (node, one) => {
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
  reconcile(byId("errors").tBodies[0], errors, keyOf, (one) => {
    const node = row(2);
    const [when, what] = node.children;
    fillWhen(when, one);
    const head = make("div", "head");
    const tone = one.status === 503 ? "warn" : one.status >= 500 && one.status !== 507 ? "bad" : "plain";
    head.append(make("span", `badge ${tone}`, one.status), make("span", one.outcome === "unknown" ? "strong" : "", one.kind ?? ""));
    if (one.outcome && !one.kind?.endsWith(one.outcome)) head.append(make("span", one.outcome === "unknown" ? "strong" : "muted", one.outcome.replaceAll("_", " ")));
    what.append(head, make("div", "muted repeated"));
    if (one.message) what.append(make("div", "message", one.message));
    what.append(statementOf(one.statement), origin(one));
    return node;
  }, (node, one) => {
    const again = one.count > 1 ? `${count(one.count)} of this kind until ${clock(one.last_at)}; the first:` : "";
    setText(node.querySelector(".repeated"), again);
  });
  showOrSay("errors", errors.length > 0);
  setText(byId("errors-sum"), errors.length ? `the latest ${errors.length}` : "");
}

export function drawSlow(slow, threshold) {
  reconcile(byId("slow").tBodies[0], slow, keyOf, (one) => {
    const node = row(2);
    const [when, what] = node.children;
    fillWhen(when, one, "strong");
    const head = make("div", "head");
    if (one.status >= 400) head.append(make("span", "badge plain", one.status), make("span", "", one.kind ?? ""));
    what.append(head, statementOf(one.statement), origin(one));
    return node;
  });
  setText(byId("slow-empty"), `None of ${duration(threshold)} or more since the server was started.`);
  showOrSay("slow", slow.length > 0);
  setText(byId("slow-sum"), slow.length ? `the latest ${slow.length} of ${duration(threshold)} or more` : "");
}

const keyOf = (one) => `${one.request_id} ${one.at}`;

function showOrSay(name, some) {
  byId(`${name}-scroll`).hidden = !some;
  byId(`${name}-empty`).hidden = some;
}

/** Roles and labels: on a small screen the cells of `inside` stand below each other. */
export function row(cells, inside) {
  const node = make("tr");
  const names = inside?.closest("table").tHead.rows[0].cells;
  if (names) node.setAttribute("role", "row");
  for (let i = 0; i < cells; i += 1) {
    const cell = make("td");
    if (names) {
      cell.setAttribute("role", "cell");
      cell.dataset.label = names[i].textContent;
    }
    node.append(cell);
  }
  return node;
}

function fillTime(cell, at) {
  if (!cell.firstChild) cell.append(make("time"));
  cell.firstChild.dateTime = iso(at);
  setText(cell.firstChild, clock(at));
}

function fillWhen(cell, one, emphasis = "muted") {
  fillTime(cell, one.at);
  cell.append(make("div", emphasis, duration(one.seconds)));
}

/** Who sent it, in small letters. */
function origin(one) {
  const node = make("div", "origin");
  const parts = [one.route, one.token ? `token ${one.token}` : null].filter(Boolean);
  node.append(`${parts.join(", ")}, request `, make("code", "id", one.request_id));
  return node;
}

export function fillBadge(cell, text, level) {
  if (!cell.firstChild) cell.append(make("span"));
  cell.firstChild.className = `badge ${level}`;
  setText(cell.firstChild, text);
}

function fillTwo(cell, first, second) {
  if (!cell.firstChild) cell.append(make("div"), make("div", "muted wrap"));
  setText(cell.firstChild, first);
  setText(cell.lastChild, second ?? "");
}

function fillStatement(cell, statement) {
  if (cell.dataset.text === statement) return;
  cell.dataset.text = statement ?? "";
  cell.replaceChildren(statementOf(statement));
}

/** A short statement as it is; of a long one the beginning, the rest on demand. */
function statementOf(statement) {
  const text = statement ?? "";
  const line = text.replace(/\s+/g, " ").trim();
  if (line.length <= SHORT) return make("code", "sql", line || "—");
  const details = make("details", "sql-more");
  const summary = make("summary");
  summary.append(make("code", "sql", `${line.slice(0, SHORT - 10)} …`));
  details.append(summary, make("pre", "sql", text));
  return details;
}

function fillId(cell, id) {
  if (!cell.firstChild) cell.append(make("code", "id"));
  setText(cell.firstChild, id);
}
