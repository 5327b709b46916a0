// @ts-check
/**
 * Server-sent events over fetch. EventSource would do, but tells neither the status of a refusal nor its Retry-After, and cannot
 * be told where to go on after it was closed. Here is no document; what an event means is not known.
 */

/**
 * @typedef {{kind: "connecting"} | {kind: "live"} | {kind: "paused"} | {kind: "lost", reason: string, seconds: number}} Link
 */

const SILENT_SECONDS = 10; // about one event a second: that long without is a connection that nobody closed
const HIDDEN_SECONDS = 10; // a look at another tab is no reason to reconnect
const LONGEST_WAIT_SECONDS = 15;

/** Splits a text stream into server-sent events (HTML Standard, 9.2.6). */
class Parser {
  #rest = "";
  #data = /** @type {string[]} */ ([]);
  #type = "";
  lastId = "";

  /**
   * @param {string} text
   * @returns {{type: string, data: string}[]} the events that are complete
   */
  take(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push({ type: this.#type || "message", data: this.#data.join("\n") });
        this.#data = [];
        this.#type = "";
        continue;
      }
      const [, field, value] = /** @type {RegExpExecArray} */ (/^([^:]*)(?:: ?)?(.*)$/s.exec(line));
      if (field === "data") this.#data.push(value);
      else if (field === "event") this.#type = value;
      else if (field === "id") this.lastId = value;
    }
    return events;
  }
}

/**
 * Follow the stream at `url` for as long as the page lives: reconnects, goes on where it was, and rests while the page is hidden.
 * @param {string} url
 * @param {(data: string) => void} onEvent
 * @param {(link: Link) => void} onLink
 * @returns {() => void} connect at once
 */
export function follow(url, onEvent, onLink) {
  let lastId = "";
  let failures = 0;
  let timer = 0;
  let hiding = 0;
  /** @type {AbortController | null} */
  let current = null;

  async function connect() {
    clearTimeout(timer);
    current?.abort();
    const mine = (current = new AbortController());
    let silent = 0;
    const heard = () => {
      clearTimeout(silent);
      silent = setTimeout(() => mine.abort(new Error(`nothing was heard for ${SILENT_SECONDS} s`)), 1000 * SILENT_SECONDS);
    };
    onLink({ kind: "connecting" });
    let reason = "the server ended the stream";
    let wait = 0;
    try {
      heard();
      const headers = { Accept: "text/event-stream", ...(lastId === "" ? {} : { "Last-Event-ID": lastId }) };
      const response = await fetch(url, { headers, cache: "no-store", signal: mine.signal });
      if (!response.ok || response.body === null) {
        wait = Number(response.headers.get("Retry-After")) || 0;
        throw new Error(await refusal(response));
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new Parser();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard();
        for (const event of parser.take(value)) {
          if (event.type === "end") {
            reason = "the server is shutting down";
            continue;
          }
          if (current !== mine) return;
          lastId = parser.lastId;
          onLink({ kind: "live" });
          failures = 0;
          onEvent(event.data);
        }
      }
    } catch (error) {
      if (current !== mine) return; // another one took over, or the page rests
      const aborted = mine.signal.aborted ? mine.signal.reason : error;
      reason = aborted instanceof TypeError ? "the server cannot be reached" : String(aborted?.message ?? aborted);
    } finally {
      clearTimeout(silent);
    }
    if (current !== mine) return;
    failures += 1;
    wait = Math.max(wait, Math.min(LONGEST_WAIT_SECONDS, 2 ** (failures - 1)) * (0.8 + 0.4 * Math.random()));
    onLink({ kind: "lost", reason, seconds: wait });
    timer = setTimeout(connect, 1000 * wait);
  }

  function rest() {
    clearTimeout(timer);
    const ended = current;
    current = null;
    ended?.abort();
    onLink({ kind: "paused" });
  }

  function whenSeen() {
    clearTimeout(hiding);
    if (document.visibilityState === "hidden") hiding = setTimeout(rest, 1000 * HIDDEN_SECONDS);
    else if (current === null) connect();
  }

  document.addEventListener("visibilitychange", whenSeen);
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", whenSeen);
  window.addEventListener("online", () => current !== null && connect());
  if (document.visibilityState === "hidden") onLink({ kind: "paused" });
  else connect();
  return connect;
}

/**
 * Why the server refused, in its own words.
 * @param {Response} response
 */
async function refusal(response) {
  try {
    const problem = await response.json();
    return typeof problem.detail === "string" ? problem.detail : `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}
