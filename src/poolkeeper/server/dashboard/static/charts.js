// The four charts: what they draw, and their numbers as legend, text and table.

import { make, reconcile, setText } from "./dom.js";
import { clock, count, duration, rate } from "./format.js";

const HEIGHT = 150;

const percent = (share) => `${share >= 0.9995 || share === 0 ? share * 100 : (share * 100).toFixed(1)} %`;

/**
 * What each chart shows. `series` from the bottom of the stack to its top; `from` names the columns
 * that are added up. `color` names a custom property of style.css.
 */
export const SPECS = {
  connections: {
    stacked: true,
    stepped: true,
    series: [
      { name: "in use", from: ["active"], color: "in-use" },
      { name: "checked or cleaned", from: ["validating", "resetting"], color: "cared-for" },
      { name: "opening", from: ["connecting"], color: "opening" },
      { name: "closing", from: ["closing"], color: "closing" },
      { name: "idle", from: ["idle"], color: "idle" },
    ],
    limit: { name: "limit", from: ["max_size"], color: "limit" },
    format: count,
    top: (highest) => Math.max(1, highest * 1.06),
    big: ({ latest }) => [`${latest.active}`, `of ${latest.max_size} in use`],
    sub: ({ now }) => `At least ${now.min_size} kept open; most in use so far ${now.totals.peak_active}.`,
  },
  waiting: {
    series: [{ name: "requests", from: ["waiting"], color: "waiting", area: true }],
    right: { name: "oldest wait", from: ["oldest_waiter_seconds"], color: "oldest", format: duration },
    stepped: true,
    format: count,
    top: (highest) => Math.max(4, highest * 1.1),
    big: ({ latest }) => [`${count(latest.waiting)}`, latest.waiting === 1 ? "request" : "requests"],
    sub: ({ latest, now }) =>
      latest.waiting
        ? `The oldest has waited for ${duration(latest.oldest_waiter_seconds)}, of at most ${duration(now.acquire_timeout_seconds)}.`
        : "Nobody waits.",
  },
  throughput: {
    stacked: true,
    series: [
      { name: "succeeded", from: ["succeeded"], color: "good" },
      { name: "client errors (4xx)", from: ["client_errors"], color: "client" },
      { name: "not executed (503)", from: ["not_executed"], color: "refused" },
      { name: "failed (502, 500)", from: ["server_errors"], color: "bad" },
    ],
    format: rate,
    top: (highest) => Math.max(1, highest * 1.1),
    big: ({ history }) => {
      const rows = history.column("succeeded", 4).map((_, i) => answered(history, 4, i));
      const known = rows.filter((value) => value !== null);
      return [rate(known.length ? known.reduce((a, b) => a + b, 0) / known.length : 0), "per second"];
    },
    sub: ({ history }) => {
      const good = total(history, ["succeeded"]);
      const all = total(history, ANSWERS);
      return all < 0.05 ? "None in the last minute." : `${percent(good / all)} succeeded in the last minute.`;
    },
  },
  latency: {
    log: true,
    series: [
      { name: "p50", from: ["p50"], color: "p50" },
      { name: "p95", from: ["p95"], color: "p95" },
      { name: "p99", from: ["p99"], color: "p99" },
    ],
    format: duration,
    big: ({ latest, prefix }) => [duration(latest[`${prefix}_p99`]), "p99"],
    sub: ({ now, prefix, recent }) => {
      const minute = now.last_minute[prefix];
      if (!minute.count) return "None in the last minute.";
      const values = ["p50", "p95", "p99"].map((name) => duration(minute[name]));
      return `Last ${recent} s. Over the last minute: ${values.join(", ")}.`;
    },
  },
};

const ANSWERS = ["succeeded", "client_errors", "not_executed", "server_errors"];

function answered(history, seconds, index) {
  const values = ANSWERS.map((name) => history.column(name, seconds)[index]);
  return values[0] === null ? null : values.reduce((a, b) => a + b, 0);
}

function total(history, names) {
  return names.reduce((all, name) => all + history.column(name, 60).reduce((a, b) => a + (b ?? 0), 0), 0);
}

export class Chart {
  /**
   * @param {HTMLElement} root The card.
   * @param {object} spec One of `SPECS`.
   * @param {{span: () => number, prefix: () => string, shades: () => Array}} view What all charts share.
   */
  constructor(root, spec, history, view) {
    this.root = root;
    this.spec = spec;
    this.history = history;
    this.view = view;
    this.part = (name) => root.querySelector(`[data-${name}]`);
    this.lines = [...spec.series, spec.right, spec.limit].filter(Boolean);
    this.hovered = null;
    this.plot = null;
    new ResizeObserver(() => this.#resize()).observe(this.part("plot"));
    this.part("legend").append(...this.lines.map((line) => this.#legendItem(line)));
    root.querySelector("details").addEventListener("toggle", () => this.#table());
  }

  /** Draw what the history holds now. */
  update(facts) {
    const { latest } = this.history;
    if (!latest) return;
    if (!this.plot) this.#build();
    this.#setData();
    const context = { ...facts, latest, history: this.history, prefix: this.view.prefix() };
    const [big, unit] = this.spec.big(context);
    reconcile(this.part("big"), [["value", big], ["unit", unit]], ([key]) => key, ([key]) => make("span", key), (node, [, text]) => setText(node, text));
    setText(this.part("sub"), this.spec.sub(context));
    this.#legend();
    this.#table();
  }

  /** Take the colours of the page anew. */
  restyle() {
    this.plot?.destroy();
    this.plot = null;
  }

  #columns(line) {
    const own = line.from[0].startsWith("p") && this.spec.log;
    return own ? line.from.map((name) => `${this.view.prefix()}_${name}`) : line.from;
  }

  #values(line, rows) {
    const indexes = this.#columns(line).map((name) => this.history.columns.indexOf(name));
    return rows.map((row) => {
      const parts = indexes.map((index) => row[index]);
      return parts.includes(null) ? null : parts.reduce((a, b) => a + b, 0);
    });
  }

  #setData() {
    const end = this.view.end();
    // as much of the chosen span as there is, but no less than a minute
    const span = Math.min(this.view.span(), Math.max(60, end - this.history.rows[0][0]));
    const rows = this.history.since(span + 2);
    this.rows = rows;
    const times = rows.map((row) => row[0]);
    this.raw = this.lines.map((line) => this.#values(line, rows));
    const drawn = this.raw.map((values) => values);
    if (this.spec.stacked) {
      for (let i = 1; i < this.spec.series.length; i += 1) {
        drawn[i] = drawn[i].map((value, at) => (value === null ? null : value + drawn[i - 1][at]));
      }
    }
    const order = this.#drawOrder();
    this.plot.setData([times, ...order.map((index) => drawn[index])], false);
    this.plot.setScale("x", { min: end - span, max: end });
  }

  /** The top of a stack is painted first, what is below it over it. */
  #drawOrder() {
    const stacked = this.spec.series.map((_, index) => index);
    const others = this.lines.map((_, index) => index).slice(stacked.length);
    return [...(this.spec.stacked ? stacked.reverse() : stacked), ...others];
  }

  #build() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const card = color("card");
    const order = this.#drawOrder();
    const axis = { stroke: color("muted"), font: "11px system-ui, sans-serif", ticks: { show: false }, border: { show: false }, labelGap: 0 };
    const grid = { stroke: color("grid"), width: 1 };
    const { spec } = this;
    const steps = uPlot.paths.stepped({ align: -1 });
    const options = {
      width: Math.max(200, this.part("plot").clientWidth),
      height: HEIGHT,
      padding: [8, spec.right ? 0 : 26, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "poolkeeper" }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
      scales: {
        x: { time: true, auto: false },
        y: spec.log ? { distr: 3, log: 10, range: decades } : { range: (_u, _min, max) => [0, spec.top(max ?? 0)] },
        ...(spec.right && { right: { range: (_u, _min, max) => [0, Math.max(1, (max ?? 0) * 1.1)] } }),
      },
      axes: [
        { ...axis, grid: { show: false }, space: 64, size: 24, values: (_u, ticks) => ticks.map((at) => clockLabel(at, ticks)) },
        {
          ...axis,
          grid,
          size: 52,
          space: 32,
          incrs: spec.log ? undefined : [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000],
          ...(spec.log && { splits: (_u, _axis, min, max) => decadesBetween(min, max), filter: (_u, ticks) => ticks }),
          values: (_u, ticks) => ticks.map((tick) => (!spec.log ? count(tick) : tick < 1 ? duration(tick) : `${tick} s`)),
        },
        ...(spec.right ? [{ ...axis, scale: "right", side: 1, size: 46, space: 32, grid: { show: false }, values: (_u, ticks) => ticks.map((tick) => `${tick} s`) }] : []),
      ],
      series: [
        {},
        ...order.map((index) => {
          const line = this.lines[index];
          const area = (spec.stacked && index < spec.series.length) || line.area;
          return {
            scale: line === spec.right ? "right" : "y",
            stroke: color(line.color),
            width: line === spec.limit ? 1.25 : 1.5,
            dash: line === spec.limit ? [5, 4] : undefined,
            fill: area ? mixed(color(line.color), card, 0.62) : undefined,
            paths: spec.stepped && line !== spec.right ? steps : undefined,
            points: { show: false },
          };
        }),
      ],
      hooks: {
        drawClear: [(u) => this.#shade(u, color)],
        setCursor: [(u) => this.#hover(u.cursor.idx ?? null)],
      },
    };
    this.plot = new uPlot(options, [[], ...order.map(() => [])], this.part("plot"));
  }

  #resize() {
    const width = this.part("plot").clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** The times without a database or a server, behind the curves. */
  #shade(u, color) {
    const { ctx, bbox } = u;
    ctx.save();
    for (const { from, to, kind } of this.view.shades()) {
      const left = Math.max(bbox.left, u.valToPos(from, "x", true));
      const right = Math.min(bbox.left + bbox.width, u.valToPos(to, "x", true));
      if (right <= bbox.left || left >= bbox.left + bbox.width) continue;
      ctx.fillStyle = color(kind);
      ctx.fillRect(left, bbox.top, Math.max(2, right - left), bbox.height);
    }
    ctx.restore();
  }

  #hover(index) {
    if (index === this.hovered) return;
    this.hovered = index;
    this.#legend();
  }

  #legendItem(line) {
    const item = make("li");
    const swatch = make("span", line === this.spec.limit ? "swatch dashed" : "swatch");
    swatch.style.setProperty("--color", `var(--${line.color})`);
    item.append(swatch, make("span", "name", line.name), make("span", "value"));
    return item;
  }

  #legend() {
    const at = this.hovered ?? (this.rows?.length ?? 0) - 1;
    const row = this.rows?.[at];
    if (!row) return;
    this.root.classList.toggle("hovered", this.hovered !== null);
    const words = this.lines.map((line, index) => {
      const value = this.raw[index][at];
      const text = (line.format ?? this.spec.format)(value);
      setText(this.part("legend").children[index].querySelector(".value"), text);
      return `${line.name} ${text}`;
    });
    this.part("legend").dataset.at = this.hovered === null ? "" : clock(row[0]);
    if (this.hovered === null) {
      this.part("plot").setAttribute("aria-label", `${this.root.querySelector("h3").textContent} now: ${words.join(", ")}`);
    }
  }

  #table() {
    if (!this.root.querySelector("details").open || !this.raw) return;
    const place = this.part("table");
    if (!place.firstChild) {
      const table = make("table");
      const head = make("tr");
      for (const text of ["", "Now", "Lowest", "Highest", "Average"]) {
        const cell = make(text ? "th" : "td", text ? "num" : "", text);
        if (text) cell.scope = "col";
        head.append(cell);
      }
      table.append(make("thead"), make("tbody"));
      table.tHead.append(head);
      place.append(table);
    }
    const rows = this.lines.map((line, index) => {
      const known = this.raw[index].filter((value) => value !== null);
      const format = line.format ?? this.spec.format;
      const average = known.reduce((a, b) => a + b, 0) / known.length;
      const numbers = known.length ? [this.raw[index].at(-1), Math.min(...known), Math.max(...known), average] : [null, null, null, null];
      const text = (value) => (value !== null && format === count && value % 1 ? value.toFixed(1) : format(value));
      return [line.name, ...numbers.map(text)];
    });
    reconcile(place.querySelector("tbody"), rows, ([name]) => name, ([name]) => {
      const row = make("tr");
      const label = make("th", "", name);
      label.scope = "row";
      row.append(label, ...[1, 2, 3, 4].map(() => make("td", "num")));
      return row;
    }, (node, [, ...texts]) => texts.forEach((text, i) => setText(node.children[i + 1], text)));
  }
}

function decades(_u, min, max) {
  if (min === null || max === null || !(max > 0)) return [0.0001, 1];
  const low = Math.max(-5, Math.floor(Math.log10(Math.max(min, 1e-5))));
  const high = Math.max(low + 2, Math.ceil(Math.log10(max)));
  return [10 ** low, 10 ** high];
}

function decadesBetween(min, max) {
  const [low, high] = [Math.round(Math.log10(min)), Math.round(Math.log10(max))];
  return Array.from({ length: high - low + 1 }, (_, i) => Number(`1e${low + i}`));
}

function clockLabel(at, ticks) {
  const text = clock(at).slice(-8);
  return ticks.length > 1 && ticks[1] - ticks[0] < 60 ? text : text.slice(0, 5);
}

/** Two #rrggbb colours, mixed: fills must hide what is painted below them. */
function mixed(one, other, share) {
  const parts = [one, other].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return `rgb(${parts[0].map((value, i) => Math.round(value * share + parts[1][i] * (1 - share))).join(",")})`;
}
