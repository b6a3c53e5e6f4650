// Server-sent events over fetch: unlike EventSource it can send the token as a header, so that no
// token is ever part of a URL.

const SILENCE_MS = 5000;
const LONGEST_PAUSE_MS = 5000;

export class Stream {
  /**
   * @param {string} url
   * @param {{headers: () => object, onEvent: (name: string, data: any) => void,
   *          onOpen: () => void, onDown: (down: {since: number, next: number}) => void,
   *          onRefused: (status: number, detail: string) => void}} hooks
   */
  constructor(url, hooks) {
    this.url = url;
    this.hooks = hooks;
    this.running = false;
    this.failures = 0;
    this.downSince = null;
    this.wake = null;
  }

  /** Follow until `stop`, reconnecting for as long as it takes. */
  async start() {
    if (this.running) return;
    this.running = true;
    while (this.running) {
      const refused = await this.#follow();
      if (refused) {
        this.running = false;
        this.hooks.onRefused(refused.status, refused.detail);
        return;
      }
      await this.#pause();
    }
  }

  /** Try at once instead of after the pause: the page is looked at again, or the network is back. */
  hurry() {
    this.wake?.();
  }

  async #follow() {
    const abort = new AbortController();
    let timer = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const response = await fetch(this.url, {
        headers: this.hooks.headers(),
        cache: "no-store",
        credentials: "omit",
        signal: abort.signal,
      });
      if (response.status === 401 || response.status === 403) {
        return { status: response.status, detail: await detailOf(response) };
      }
      if (!response.ok) return null;
      for await (const [name, data] of events(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), SILENCE_MS);
        if (this.downSince !== null || this.failures) {
          this.failures = 0;
          this.downSince = null;
        }
        try {
          if (name === "hello") this.hooks.onOpen();
          this.hooks.onEvent(name, data);
        } catch (error) {
          // a fault of the page, not of the connection
          reportError(error);
        }
      }
    } catch (error) {
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
    return null;
  }

  async #pause() {
    this.downSince ??= Date.now();
    // The first retry is quick: a server that is replaced, or drains, answers it already.
    const limit = Math.min(LONGEST_PAUSE_MS, 400 * 2 ** this.failures);
    this.failures += 1;
    const pause = limit * (0.75 + Math.random() / 4);
    this.hooks.onDown({ since: this.downSince, next: Date.now() + pause });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.wake = null;
  }
}

async function detailOf(response) {
  try {
    return (await response.json()).detail ?? "";
  } catch {
    return "";
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    let end;
    while ((end = pending.indexOf("\n\n")) >= 0) {
      const event = parse(pending.slice(0, end));
      pending = pending.slice(end + 2);
      if (event) yield event;
    }
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length ? [name, JSON.parse(data.join("\n"))] : null;
}
