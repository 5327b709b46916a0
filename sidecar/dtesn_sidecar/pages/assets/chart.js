// @ts-check
/**
 * One chart of the last minutes as SVG: lines over time, a legend with the values, a cursor, and the same figures as a table.
 * What is drawn is given; gaps in the figures are gaps in the line.
 *
 * @typedef {import("./figures.js").Point} Point
 * @typedef {{key: string, label: string, style: string, format: string, none?: string, step?: boolean, area?: boolean}} Series
 * @typedef {{label: string, series: Series[], least: number, unit: string, ratio?: boolean, height?: number}} Plan
 */
import { make, say } from "./dom.js";
import { inWords } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SPAN_SECONDS = 300;
const GAP_SECONDS = 5; // points further apart are not joined
const HEIGHT = 144; // px, as in page.css; so is a plan's own
const TOP = 8;
const BOTTOM = 18;
const TABLE_STEP = 15;
const MARGIN = 34;

/**
 * @param {string} name
 * @param {Record<string, string | number>} [attributes]
 */
function svg(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, String(value));
  return made;
}

/**
 * A round number that is at least `value` > 0: an axis up to it has a round middle too.
 * @param {number} value
 */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * (/** @type {number} */ ([1, 2, 3, 4, 5, 6, 8].find((digits) => digits * power >= value) ?? 10));
}

export class Chart {
  #host;
  #plan;
  #svg = svg("svg", { role: "img" });
  #values = /** @type {HTMLElement[]} */ ([]);
  #when = make("li", "when quiet");
  #markEntry = make("li", "quiet");
  #markWords = make("span");
  #details = /** @type {HTMLDetailsElement} */ (make("details"));
  #width = 0;
  #height;
  #marks = /** @type {number[]} */ ([]);
  /** @type {Point[]} */
  #points = [];
  /** @type {number | null} the time under the pointer */
  #cursor = null;

  /**
   * @param {HTMLElement} host
   * @param {Plan} plan
   * @param {(time: number | null) => void} onCursor told where the pointer is, in seconds since 1970
   */
  constructor(host, plan, onCursor) {
    this.#host = host;
    this.#plan = plan;
    this.#height = plan.height ?? HEIGHT;
    host.append(this.#legend(), this.#svg, this.#details);
    this.#details.append(make("summary", "", `${plan.label} as a table`));
    this.#details.addEventListener("toggle", () => this.#details.open && this.#fillTable());
    this.#svg.addEventListener("pointermove", (event) => onCursor(this.#timeAt(event.clientX)));
    this.#svg.addEventListener("pointerleave", () => onCursor(null));
    new ResizeObserver(([entry]) => {
      this.#width = entry.contentRect.width;
      this.#draw();
    }).observe(host);
  }

  /**
   * Draw these points.
   * @param {Point[]} points
   */
  show(points) {
    this.#points = points;
    this.#draw();
  }

  /**
   * Draw lines across at these values, and say in the legend what they are.
   * @param {number[]} values
   * @param {string} words
   */
  mark(values, words) {
    this.#marks = values;
    say(this.#markWords, words);
    this.#markEntry.hidden = false;
    this.#draw();
  }

  /**
   * Show the values at this time in the legend; null: the latest.
   * @param {number | null} time
   */
  point(time) {
    if (time === null && this.#cursor === null) return;
    this.#cursor = time;
    this.#draw();
  }

  #legend() {
    const list = make("ul", "legend");
    for (const series of this.#plan.series) {
      const value = make("b");
      this.#values.push(value);
      list.append(make("li", "", key(series.style), make("span", "", series.label), value));
    }
    this.#markEntry.append(key("mark"), this.#markWords);
    this.#markEntry.hidden = true;
    list.append(this.#markEntry, this.#when);
    return list;
  }

  #draw() {
    const points = this.#points;
    const latest = points.at(-1);
    const chosen = this.#cursor === null ? latest : nearest(points, this.#cursor);
    this.#plan.series.forEach((series, i) => say(this.#values[i], inWords(chosen?.[series.key], series.format, series.none ?? "none")));
    say(this.#when, this.#cursor === null || !chosen || !latest ? "" : ago(Number(latest.time) - Number(chosen.time)));
    if (this.#width === 0) return;
    const end = Number(latest?.time ?? 0);
    const top = this.#top();
    const x = (/** @type {number} */ time) => MARGIN + (this.#width - MARGIN - 2) * (1 - (end - time) / SPAN_SECONDS);
    const y = (/** @type {number} */ value) => TOP + (this.#height - TOP - BOTTOM) * (1 - Math.min(value, top) / top);
    const drawn = [...this.#axes(top, x, y, end)];
    for (const value of this.#marks) drawn.push(svg("line", { class: "mark", x1: MARGIN, x2: this.#width, y1: y(value), y2: y(value) }));
    for (const series of this.#plan.series) drawn.push(...lines(points, series, x, y));
    if (this.#cursor !== null && chosen) {
      const across = x(Number(chosen.time));
      drawn.push(svg("line", { class: "cursor", x1: across, x2: across, y1: TOP, y2: this.#height - BOTTOM }));
    }
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${this.#height}`);
    this.#svg.replaceChildren(...drawn);
    this.#svg.setAttribute("aria-label", this.#summary());
  }

  #top() {
    if (this.#plan.ratio) return 1;
    let most = this.#plan.least;
    for (const point of this.#points) for (const series of this.#plan.series) most = Math.max(most, point[series.key] ?? 0);
    return roundUp(most);
  }

  /**
   * @param {number} top
   * @param {(time: number) => number} x
   * @param {(value: number) => number} y
   * @param {number} end
   */
  *#axes(top, x, y, end) {
    const format = this.#plan.series[0].format === "percent" ? "percent" : "count";
    for (const share of [0, 0.5, 1]) {
      const value = share * top;
      yield svg("line", { class: "gridline", x1: MARGIN, x2: this.#width, y1: y(value), y2: y(value) });
      if (format === "count" && !Number.isInteger(value)) continue;
      const label = svg("text", { x: MARGIN - 6, y: y(value) + 4, "text-anchor": "end" });
      label.textContent = format === "percent" ? inWords(value, "percent") : compact(value);
      yield label;
    }
    for (const [seconds, text, anchor] of /** @type {const} */ ([[300, "\u22125 min", "start"], [150, "\u22122:30", "middle"], [0, "now", "end"]])) {
      const label = svg("text", { x: x(end - seconds), y: this.#height - 3, "text-anchor": anchor });
      label.textContent = text;
      yield label;
    }
  }

  #summary() {
    const { label, series, unit } = this.#plan;
    if (this.#points.length === 0) return `${label}: nothing was measured yet.`;
    const parts = series.map(({ key: name, label: said, format }) => {
      const values = this.#points.map((point) => point[name]).filter((value) => value !== null && value !== undefined);
      if (values.length === 0) return `${said}: nothing was measured`;
      const least = values.reduce((a, b) => Math.min(a, b));
      const most = values.reduce((a, b) => Math.max(a, b));
      return `${said}: from ${inWords(least, format)} to ${inWords(most, format)}${unit}`;
    });
    return `${label} over the last five minutes. ${parts.join("; ")}.`;
  }

  #fillTable() {
    const table = make("table", "figures");
    const now = new Date();
    table.append(make("caption", "quiet", `Every ${TABLE_STEP} s, as of ${now.toLocaleTimeString("en-GB")}. Close and open it again for newer figures.`));
    const head = make("tr", "", column("Ago"), ...this.#plan.series.map(({ label }) => column(label)));
    const body = make("tbody");
    const end = Number(this.#points.at(-1)?.time ?? 0);
    for (let seconds = 0; seconds < SPAN_SECONDS; seconds += TABLE_STEP) {
      const point = this.#points.findLast(({ time }) => Number(time) <= end - seconds);
      if (!point || end - seconds - Number(point.time) > GAP_SECONDS) continue;
      const first = make("th", "", ago(seconds));
      first.setAttribute("scope", "row");
      body.append(make("tr", "", first, ...this.#plan.series.map((series) => make("td", "", inWords(point[series.key], series.format, "none")))));
    }
    table.append(make("thead", "", head), body);
    const scroll = make("div", "scroll", table);
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${this.#plan.label}, table`);
    this.#details.querySelector(".scroll")?.remove();
    this.#details.append(scroll);
  }

  /** @param {number} clientX */
  #timeAt(clientX) {
    const box = this.#svg.getBoundingClientRect();
    const share = (clientX - box.left - MARGIN) / (box.width - MARGIN - 2);
    return Number(this.#points.at(-1)?.time ?? 0) - SPAN_SECONDS * (1 - Math.max(0, Math.min(1, share)));
  }
}

/**
 * The paths of one series, a new one after each gap.
 * @param {Point[]} points
 * @param {Series} series
 * @param {(time: number) => number} x
 * @param {(value: number) => number} y
 */
function* lines(points, series, x, y) {
  /** @type {[number, number][]} */
  let run = [];
  let before = 0;
  const runs = [];
  for (const point of points) {
    const value = point[series.key];
    const time = Number(point.time);
    if (value === null || value === undefined || time - before > GAP_SECONDS) {
      if (run.length > 0) runs.push(run);
      run = [];
    }
    if (value !== null && value !== undefined) run.push([x(time), y(value)]);
    before = time;
  }
  if (run.length > 0) runs.push(run);
  for (const each of runs) {
    if (each.at(-1)[0] < MARGIN) continue;
    const shown = each.filter(([across]) => across >= MARGIN - 1);
    if (shown.length === 0) continue;
    const [[first, height]] = shown;
    const rest = shown.slice(1).map(([across, up]) => (series.step ? `H${across.toFixed(1)}V${up.toFixed(1)}` : `L${across.toFixed(1)} ${up.toFixed(1)}`));
    const path = `M${first.toFixed(1)} ${height.toFixed(1)}${rest.join("")}${shown.length === 1 ? "h.1" : ""}`;
    const last = shown.at(-1)[0].toFixed(1);
    if (series.area) yield svg("path", { class: `area ${series.style}`, d: `${path}V${y(0)}H${first.toFixed(1)}Z`, "data-to": last });
    yield svg("path", { class: `line ${series.style}`, d: path });
  }
}

/**
 * The line of a series, in small.
 * @param {string} style
 */
function key(style) {
  const drawn = svg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
  drawn.append(svg("path", { d: "M1 4H17", class: `key ${style}` }));
  return drawn;
}

/** @param {string} text */
function column(text) {
  const cell = make("th", "", text);
  cell.setAttribute("scope", "col");
  return cell;
}

/**
 * @param {Point[]} points
 * @param {number} time
 */
function nearest(points, time) {
  return points.reduce((best, point) => (Math.abs(Number(point.time) - time) < Math.abs(Number(best.time) - time) ? point : best), points[0]);
}

/** @param {number} seconds */
function ago(seconds) {
  const whole = Math.round(seconds);
  return whole === 0 ? "now" : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} ago`;
}

/**
 * The label of an axis: few characters.
 * @param {number} value
 */
function compact(value) {
  return value >= 1000 ? `${value / 1000}k` : String(value);
}
