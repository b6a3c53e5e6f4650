// Puts the page together: events come in, the page is drawn anew once per second.

import { SPECS, Chart } from "./charts.js";
import { authorization, closeGate, confirm, hasToken, openGate, setUpActions, setUpGate, setUpTheme } from "./controls.js";
import { byId, icon, make, reconcile, setText } from "./dom.js";
import { age } from "./format.js";
import { History } from "./history.js";
import { drawOperations } from "./operations.js";
import { judge } from "./state.js";
import { Stream } from "./stream.js";
import { drawErrors, drawOutages, drawRunning, drawSlow } from "./tables.js";

const history = new History();
const known = { hello: null, now: null, outages: [], errors: [], slow: [] };
const absences = [];
let down = null;
// The server's clock minus this machine's, in seconds: ages are told by the server's.
let skew = 0;
let announced = null;

const at = () => Date.now() / 1000 + skew;
const span = () => Number(document.querySelector("input[name=span]:checked").value);

const view = {
  span,
  end: () => (down ? at() : (history.latest?.at ?? at())),
  prefix: () => document.querySelector("input[name=duration]:checked").value,
  shades: () => [
    ...known.outages.map((one) => ({ from: one.began_at, to: one.ended_at ?? at(), kind: "outage-shade" })),
    ...absences.map((one) => ({ from: one.from, to: one.to ?? at(), kind: "absence-shade" })),
  ],
};

const charts = [...document.querySelectorAll("[data-chart]")].map(
  (card) => new Chart(card, SPECS[card.dataset.chart], history, view),
);

const takers = {
  hello(hello) {
    // of several processes behind one port each has a pool, and a past, of its own
    if (known.hello && known.hello.process !== hello.process) history.clear();
    known.hello = hello;
    history.setColumns(hello.columns);
    byId("actions").hidden = !hello.admin;
    const one = hello.process === null ? "" : `${hello.process} of several, whose own numbers these are, pid `;
    setText(byId("about"), `poolkeeper ${hello.version}, process ${one}${hello.pid}${hello.token ? `, token ${hello.token}` : ""}`);
  },
  rows(rows) {
    history.add(rows);
    const latest = history.latest;
    if (latest) skew = latest.at - Date.now() / 1000;
    draw();
  },
  now(now) {
    known.now = now;
  },
  outages(outages) {
    known.outages = outages;
  },
  operations(operations) {
    drawOperations(operations, { steer: known.hello.writes, say, confirm });
  },
  errors(errors) {
    known.errors = errors;
    drawErrors(errors);
  },
  slow(slow) {
    known.slow = slow;
    drawSlow(slow, known.hello.slow_query_seconds);
  },
};

const stream = new Stream("/dashboard/events", {
  headers: authorization,
  onEvent: (name, data) => takers[name]?.(data),
  onOpen() {
    down = null;
    const absence = absences.at(-1);
    if (absence && absence.to === null) absence.to = at();
    if (absences.length > 50) absences.shift();
    closeGate();
    byId("banner").hidden = false;
  },
  onDown(news) {
    if (!down && known.now) absences.push({ from: news.since / 1000 + skew, to: null });
    down = news;
    drawState();
  },
  onRefused(status, detail) {
    down = null;
    known.now = null;
    byId("live").hidden = true;
    byId("banner").hidden = true;
    link("wait", "locked");
    document.title = "poolkeeper";
    openGate(status === 403 ? { detail } : { wrong: hasToken() });
  },
});

function draw() {
  const { now, hello } = known;
  drawState();
  if (!now) return;
  byId("live").hidden = false;
  setText(byId("target"), now.pool);
  const facts = { now, recent: hello.recent_seconds };
  for (const chart of charts) chart.update(facts);
  drawOutages(known.outages, { startedAt: now.started_at, at: at() });
  drawRunning(now);
  drawFirstSteps(now);
  byId("pause").hidden = now.state === "paused";
  byId("resume").hidden = now.state !== "paused";
}

/** Whether requests have really had to wait during the last seconds: a short queue is normal. */
function queueing() {
  const waits = history.column("oldest_waiter_seconds", 4.5);
  return waits.filter((seconds) => seconds > 0).length >= 3 || waits.some((seconds) => seconds >= 0.5);
}

function drawState() {
  const state = judge({ now: known.now, latest: history.latest, queueing: queueing(), outages: known.outages, down: down && shifted(down), at: at() });
  const banner = byId("banner");
  if (banner.dataset.state !== state.key) {
    banner.dataset.state = state.key;
    banner.dataset.level = state.level;
    byId("banner-icon").replaceChildren(icon(state.icon));
    byId("main").classList.toggle("stale", state.key === "gone");
  }
  setText(byId("banner-title"), state.title);
  setText(byId("banner-text"), state.text);
  reconcile(byId("banner-facts"), state.facts, ([name]) => name, ([name]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd"));
    return pair;
  }, (node, [, text]) => setText(node.lastChild, text));
  document.title = `${state.title} · poolkeeper`;
  if (down) link("down", "not connected");
  else if (known.now) link("live", `live, up ${age(at() - known.now.started_at)}`);
  announce(state);
}

/** Tell screen readers about another state, not about every number in it. */
function announce(state) {
  if (announced === state.key) return;
  // The first state is on the page already when somebody arrives.
  if (announced !== null) setText(byId("announcer"), `${state.said ?? state.title}.`);
  announced = state.key;
}

function say(text) {
  setText(byId("announcer"), text);
}

function shifted({ since, next }) {
  return { since: since + skew * 1000, next: next + skew * 1000 };
}

function link(state, text) {
  byId("link").dataset.link = state;
  setText(byId("link-text"), text);
}

function drawFirstSteps(now) {
  const card = byId("first-steps");
  card.hidden = now.totals.requests > 0 || now.running_total > 0;
  if (card.hidden || byId("curl").textContent) return;
  const auth = hasToken() ? ` -H "Authorization: Bearer $POOLKEEPER_TOKEN"` : "";
  setText(byId("curl"), `curl -s ${location.origin}/sql${auth} -d '{"query": "select now()"}'`);
  setText(byId("endpoint"), `${location.origin}/sql`);
  byId("copy").hidden = !navigator.clipboard;
}

byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("curl").textContent);
  setText(byId("announcer"), "Copied.");
  setText(byId("copy"), "Copied");
});

for (const input of document.querySelectorAll(".segments input")) {
  input.addEventListener("change", () => {
    setText(byId("span-text"), { 60: "minute", 180: "3 minutes", 600: "10 minutes" }[span()]);
    draw();
  });
}

setUpGate(() => stream.start());
setUpTheme(() => {
  for (const chart of charts) chart.restyle();
  draw();
});
setUpActions(say);
document.addEventListener("visibilitychange", () => document.hidden || stream.hurry());
addEventListener("online", () => stream.hurry());
// Between the server's words: countdowns, and the age of an outage that the server cannot tell.
setInterval(() => (down ? draw() : undefined), 500);
stream.start();
