// @ts-check
/** Figures onto the page. Nothing is fetched here, and nothing is computed that the server has not said. */
import { bars, byId, keyed, make, say } from "./dom.js";
import { at } from "./figures.js";
import { FORMATS, age, inWords } from "./format.js";
import { BREAKER, CLOSED_BY, OUTCOMES, PHASES, PRIORITIES } from "./words.js";

/**
 * @typedef {import("./figures.js").Figures} Figures
 * @typedef {import("./figures.js").Point} Point
 * @typedef {import("./figures.js").SourceLoad} SourceLoad
 */

const figures = /** @type {NodeListOf<HTMLDataElement>} */ (document.querySelectorAll("[data-figure]"));

/**
 * Show an event. `point`: the newest of the charts.
 * @param {Figures} shown
 * @param {Point | null} point
 */
export function show(shown, point) {
  const whole = { ...shown, point };
  for (const place of figures) {
    const value = at(whole, /** @type {string} */ (place.dataset.figure));
    say(place, inWords(value, /** @type {string} */ (place.dataset.format), place.dataset.none));
    place.classList.toggle("none", value === null);
    place.value = value === null ? "" : String(value);
  }
  showPhase(shown);
  showBreaker(shown.manager);
  showQueue(shown.manager);
  showSources(shown.metrics?.server_load ?? {});
  shares("closed", shown.recent?.closed_by ?? {}, CLOSED_BY, () => false);
  shares("outcomes", shown.recent?.requests ?? {}, OUTCOMES, (key) => key !== "ok");
  say(byId("summary"), summary(shown, point));
}

/**
 * The state of the server in a sentence or two.
 * @param {Figures} shown
 * @param {Point | null} point
 */
function summary(shown, point) {
  if (shown.metrics === null) return "The model and the workers are being made ready. Requests are taken once they are.";
  const rate = point?.answered_per_second ?? null;
  const waiting = shown.metrics.pending_requests;
  const waits = waiting === 0 ? "Nothing waits." : `${FORMATS.count(waiting)} ${waiting === 1 ? "request waits" : "requests wait"}.`;
  const failed = point?.failed_per_second ? ` ${FORMATS.rate(point.failed_per_second)} a second were not answered.` : "";
  if (rate === null) return `Measuring. ${waits}`;
  if (rate === 0) return `Idle: no request was answered in the last 10 seconds. ${waits}${failed}`;
  const p95 = shown.recent?.total.p95_ms ?? null;
  const size = point?.batch_size ?? null;
  const within = p95 === null ? "" : `, 95 % of them within ${inWords(p95, "ms")} ms`;
  const together = size === null ? "" : `, in batches of ${FORMATS.size(size)}`;
  return `Answers ${FORMATS.rate(rate)} requests a second${within}${together}. ${waits}${failed}`;
}

/** The server cannot be asked: what it was is not what it is. */
export function unknown() {
  byId("phase").dataset.state = "unknown";
  say(byId("phase-words"), "State not known");
}

/** @param {Figures} shown */
function showPhase({ phase, reasons, inside }) {
  const known = PHASES[phase] ?? { label: phase, state: "unknown" };
  const ready = phase !== "serving" || reasons.length === 0;
  byId("phase").dataset.state = ready ? known.state : "bad";
  const within = phase === "closed" ? `: ${FORMATS.count(inside)} inside` : "";
  say(byId("phase-words"), ready ? `${known.label}${within}` : "Not ready");
  byId("reasons").hidden = ready;
  say(byId("reasons-words"), ready ? "" : `No requests should come here: ${reasons.join("; ")}.`);
}

/** @param {Figures["manager"]} manager */
function showBreaker(manager) {
  const state = BREAKER[manager?.breaker ?? ""];
  byId("breaker").dataset.state = state?.state ?? "unknown";
  say(byId("breaker-words"), state?.label ?? "not measured yet");
  const wait = manager?.breaker_retry_after_seconds ?? null;
  const next = wait === null ? "" : wait > 0 ? ` The next probe is in ${age(wait)}.` : " The probe is due.";
  say(byId("breaker-meaning"), state ? `${state.meaning}${next}` : "The manager has not started.");
  say(byId("direct-breaker"), BREAKER[manager?.direct_breaker ?? ""]?.label.toLowerCase() ?? "not measured yet");
  say(byId("strategy"), manager?.strategy ?? "not known yet");
}

/** @param {Figures["manager"]} manager */
function showQueue(manager) {
  const waiting = manager?.pending_by_priority ?? [];
  const rows = waiting.map((value, i) => ({ key: String(i), label: `Priority ${PRIORITIES[i] ?? i}`, value, shown: FORMATS.count(value) }));
  bars(byId("priorities"), rows);
}

/**
 * @param {string} id
 * @param {Record<string, number>} counts
 * @param {Record<string, [string, string]>} words
 * @param {(key: string) => boolean} isBad
 */
function shares(id, counts, words, isBad) {
  const whole = Object.values(counts).reduce((sum, value) => sum + value, 0);
  const rows = Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([key, value]) => {
      const [label, title] = words[key] ?? [key, ""];
      const share = value === whole ? "100 %" : value / whole < 0.005 ? "< 1 %" : inWords(value / whole, "percent");
      return { key, label, title, value, bad: isBad(key), shown: `${FORMATS.count(value)} \u00b7 ${share}` };
    });
  bars(byId(id), rows);
  byId(`${id}-none`).hidden = rows.length > 0;
}

/** @param {Record<string, number | SourceLoad>} load */
function showSources(load) {
  const sources = /** @type {[string, SourceLoad][]} */ (Object.entries(load).filter(([, source]) => typeof source === "object"));
  keyed(byId("sources"), sources, ([name]) => name, sourceRow, updateSource);
  byId("sources-none").hidden = sources.length > 0;
}

function sourceRow() {
  const name = make("th");
  name.setAttribute("scope", "row");
  return make("tr", "", name, make("td"), make("td"), make("td"));
}

/**
 * @param {HTMLElement} row
 * @param {[string, SourceLoad]} source
 */
function updateSource(row, [name, source]) {
  const [head, load, old, weight] = /** @type {HTMLTableCellElement[]} */ ([...row.children]);
  const none = source.value === null;
  const last = source.age_seconds === undefined ? "" : `; last read ${inWords(source.age_seconds, "age")} ago`;
  say(head, name);
  say(load, none ? `no data: ${source.reason ?? "no reason given"}${last}` : inWords(source.value, "percent"));
  load.className = none ? "reason" : "";
  load.colSpan = none ? 3 : 1; // a reason needs the room, and what is left out of the mean has no weight in it
  old.hidden = weight.hidden = none;
  say(old, inWords(source.age_seconds, "age", "never read"));
  say(weight, source.weight === undefined ? "1" : String(source.weight));
}
