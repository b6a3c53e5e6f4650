// The samples of the last ten minutes by column, as the charts want them. They outlive the server:
// what was seen before it was restarted stays in view, with a gap.

const KEPT_SECONDS = 600;
const GAP_SECONDS = 3;

export class History {
  constructor() {
    this.columns = [];
    this.rows = [];
  }

  setColumns(columns) {
    // another version of the server may mean other numbers
    if (columns.join() !== this.columns.join()) this.clear();
    this.columns = columns;
  }

  clear() {
    this.rows = [];
  }

  /** Add rows; where they overlap what is known already, the new ones count. */
  add(rows) {
    if (!rows.length) return;
    const first = rows[0][0];
    const kept = this.rows.filter((row) => row[0] < first);
    const last = kept.at(-1);
    if (last && first - last[0] > GAP_SECONDS) kept.push(this.#gap(last[0] + 1));
    for (const [index, row] of rows.entries()) {
      const before = rows[index - 1];
      if (before && row[0] - before[0] > GAP_SECONDS) kept.push(this.#gap(before[0] + 1));
      kept.push(row);
    }
    const oldest = kept.at(-1)[0] - KEPT_SECONDS;
    this.rows = kept.filter((row) => row[0] >= oldest);
  }

  #gap(at) {
    return [at, ...Array(this.columns.length - 1).fill(null)];
  }

  /** The latest sample by name, or null. */
  get latest() {
    const row = this.rows.at(-1);
    return row ? Object.fromEntries(this.columns.map((name, i) => [name, row[i]])) : null;
  }

  /** The values of one column in the last `seconds`. */
  column(name, seconds) {
    const index = this.columns.indexOf(name);
    return this.since(seconds).map((row) => row[index]);
  }

  /** The rows of the last `seconds`. */
  since(seconds) {
    const from = (this.rows.at(-1)?.[0] ?? 0) - seconds;
    return this.rows.filter((row) => row[0] >= from);
  }
}
