// From the facts to one sentence: is all well, and if not, what is wrong, since when, what happens
// next, and what clients get meanwhile.

import { age, clock, count, duration, plural } from "./format.js";

const CAUSES = {
  connection_lost: "the last connection broke",
  validation_failed: "a probe was not answered",
  connect_failed: "no connection could be opened",
};

export const causeInWords = (cause) => CAUSES[cause] ?? cause;

/**
 * @returns {{key: string, level: "good"|"warn"|"bad"|"gone"|"wait", icon: string, title: string,
 *            text: string, facts: Array<[string, string]>, said: string}}
 * `key` changes when the state does, `said` is what a screen reader is told then.
 */
export function judge({ now, latest, queueing, outages, down, at }) {
  if (down) return now?.state === "draining" ? shutDown(down, at) : unreachable(down, at);
  if (!now || !latest) {
    return { key: "wait", level: "wait", icon: "wait", title: "Connecting", text: "The first numbers arrive within a second.", facts: [] };
  }
  if (now.state === "draining") {
    return {
      key: "draining",
      level: "warn",
      icon: "paused",
      title: "Shutting down",
      text: "Running statements finish; new requests get 503 and should go to another server.",
      facts: [],
    };
  }
  if (now.state === "starting") {
    return { key: "starting", level: "wait", icon: "wait", title: "Starting", text: "The server opens its first connections.", facts: errorFact(now) };
  }
  const outage = outages.find((one) => one.ended_at === null);
  if (now.health.status === "unhealthy") return databaseDown(now, outage, at);
  if (now.state === "paused") {
    return {
      key: "paused",
      level: "warn",
      icon: "paused",
      title: "Paused by an operator",
      text: `For ${age(at - now.paused_at)}. Requests queue until somebody resumes, within their own time limits; ${plural(latest.active, "connection is", "connections are")} still in use.`,
      facts: [],
      said: "Paused by an operator",
    };
  }
  const all = latest.active >= latest.max_size;
  const use = `${all ? `All ${latest.max_size}` : `${latest.active} of ${latest.max_size}`} connections are in use`;
  if (queueing) {
    const limit = duration(now.acquire_timeout_seconds);
    return {
      key: "exhausted",
      level: "warn",
      icon: "warn",
      title: latest.waiting
        ? `${plural(latest.waiting, "request waits", "requests wait")} for a connection`
        : "Requests had to wait for a connection",
      text: latest.waiting
        ? `${use}. The oldest request has waited for ${duration(latest.oldest_waiter_seconds)}; after ${limit} it gets 503 and was not executed.`
        : `${use}, and nobody waits at the moment.`,
      facts: [],
      said: "Requests wait for a connection",
    };
  }
  // A pool in full use without a queue is doing its work.
  const onlyBusy = now.health.reasons.length === 1 && latest.active > latest.max_size * 0.8;
  if (now.health.status === "degraded" && !onlyBusy) {
    return {
      key: "degraded",
      level: "warn",
      icon: "warn",
      title: "Working, but look at this",
      text: sentence(now.health.reasons.join("; ")),
      facts: [],
      said: `Working, but ${now.health.reasons.length ? now.health.reasons[0] : "degraded"}`,
    };
  }
  const probe = now.health.database.latency_ms;
  return {
    key: "good",
    level: "good",
    icon: "good",
    title: "All is well",
    text: `${probe === null ? "The database answers" : `The database answers within ${duration(probe / 1000)}`}. ${use}, ${latest.waiting ? "nobody waits for long" : "nobody waits"}.`,
    facts: [],
  };
}

function databaseDown(now, outage, at) {
  const { database } = now.health;
  const since = outage?.began_at ?? at - (database.outage_seconds ?? 0);
  const lasted = at - since;
  const next = database.next_attempt_seconds;
  const left = now.outage_patience_seconds - lasted;
  const attempts = outage?.attempts ? `, after ${plural(outage.attempts, "attempt")}` : "";
  return {
    key: "outage",
    level: "bad",
    icon: "bad",
    title: `Database unreachable for ${age(lasted)}`,
    text: sentence(database.last_error ?? outage?.error ?? now.health.reasons.join("; ")),
    facts: [
      ["Since", clock(since)],
      ...(outage ? [["Noticed because", causeInWords(outage.cause)]] : []),
      ["Next attempt", `${next === null || next < 0.05 ? "right now" : `in ${next.toFixed(1)} s`}${attempts}`],
      [
        "Clients get",
        left > 0
          ? `up to ${age(Math.ceil(left))} more of waiting, then 503 (not executed)`
          : "503 at once (not executed), with Retry-After",
      ],
    ],
    said: `Database unreachable: ${database.last_error ?? "no connection"}`,
  };
}

function unreachable({ since, next }, at) {
  const wait = Math.max(0, next / 1000 - at);
  return {
    key: "gone",
    level: "gone",
    icon: "gone",
    title: `Server unreachable for ${age(at - since / 1000)}`,
    text: "This page cannot reach poolkeeper. Below is what was known last; it goes on by itself when the server is back.",
    facts: [
      ["Since", clock(since / 1000)],
      ["Next attempt", wait < 0.05 ? "right now" : `in ${wait.toFixed(1)} s`],
    ],
    said: "Server unreachable",
  };
}

function shutDown({ since }, at) {
  return {
    key: "gone",
    level: "gone",
    icon: "paused",
    title: `Server shut down ${age(at - since / 1000)} ago`,
    text: "It was asked to, and finished its work first. This page goes on by itself when a server is back.",
    facts: [],
    said: "Server shut down",
  };
}

function errorFact(now) {
  const error = now.health.database.last_error;
  return error ? [["Latest failure", error]] : [];
}

function sentence(text) {
  const trimmed = (text ?? "").trim();
  if (!trimmed) return "";
  const upper = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(upper) ? upper : `${upper}.`;
}
