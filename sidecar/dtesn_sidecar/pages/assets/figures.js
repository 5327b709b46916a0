// @ts-check
/**
 * What the events say, and the points that the charts are drawn from. The shapes are those of LiveEvent in /openapi.json.
 *
 * @typedef {{value: number | null, age_seconds?: number, weight?: number, reason?: string}} SourceLoad
 * @typedef {Record<string, number | null>} Point  a second of the charts; `time` in seconds since 1970
 * @typedef {{
 *   server: string, phase: string, reasons: string[], inside: number,
 *   metrics: null | {batching_enabled: boolean, current_batch_size: number | null, pending_requests: number,
 *     metrics: Record<string, number | null | boolean>, server_load: Record<string, number | SourceLoad>},
 *   manager: null | {strategy: string, breaker: string, direct_breaker: string, breaker_retry_after_seconds: number | null,
 *     pending_by_priority: number[], load: number | null, [more: string]: unknown},
 *   recent: null | {seconds: number, requests: Record<string, number>, closed_by: Record<string, number>,
 *     total: Record<string, number | null>, queue: Record<string, number | null>, compute: Record<string, number | null>},
 *   points: Point[],
 * }} Figures
 */

const KEPT = 300;

/** The points of the last five minutes. */
export class History {
  #server = "";
  /** @type {Point[]} */
  points = [];

  /**
   * Take an event's points.
   * @param {Figures} figures
   * @returns {boolean} whether the server is another one than before
   */
  take(figures) {
    const restarted = this.#server !== "" && this.#server !== figures.server;
    this.#server = figures.server;
    const last = this.points.at(-1)?.time ?? -Infinity;
    this.points.push(...figures.points.filter((point) => Number(point.time) > Number(last)));
    this.points.splice(0, this.points.length - KEPT);
    return restarted;
  }

  /** @returns {Point | null} */
  get latest() {
    return this.points.at(-1) ?? null;
  }
}

/**
 * The value at a path such as "metrics.metrics.avg_batch_size"; null where there is none.
 * @param {unknown} whole
 * @param {string} path
 * @returns {number | null}
 */
export function at(whole, path) {
  /** @type {any} */
  let here = whole;
  for (const name of path.split(".")) here = here?.[name];
  return typeof here === "number" ? here : null;
}
