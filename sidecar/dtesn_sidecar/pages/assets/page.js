// @ts-check
/** The page's beginning: what is wired to what. */
import { Chart } from "./chart.js";
import { byId, say } from "./dom.js";
import { History } from "./figures.js";
import { inWords } from "./format.js";
import { follow } from "./stream.js";
import { start } from "./tryout.js";
import { show, unknown } from "./view.js";

/**
 * @typedef {import("./chart.js").Plan} Plan
 * @typedef {import("./stream.js").Link} Link
 */

/** @type {Record<string, Plan>} */
const PLANS = {
  throughput: {
    label: "Throughput",
    least: 5,
    unit: " requests/s",
    series: [
      { key: "answered_per_second", label: "Answered", style: "s1", format: "rate", area: true },
      { key: "failed_per_second", label: "Not answered", style: "s3", format: "rate" },
    ],
  },
  latency: {
    label: "Latency",
    least: 10,
    unit: " ms",
    series: [
      { key: "p50_ms", label: "50th", style: "s2", format: "ms" },
      { key: "p95_ms", label: "95th", style: "s1", format: "ms" },
      { key: "p99_ms", label: "99th", style: "s3", format: "ms" },
    ],
  },
  size: {
    label: "Batch size",
    least: 4,
    unit: " items",
    series: [
      { key: "batch_size", label: "Mean", style: "s1", format: "size", area: true },
      { key: "limit", label: "Limit", style: "s2 dashed", format: "count", step: true },
      { key: "target", label: "Target", style: "s3 dotted", format: "count", step: true },
    ],
  },
  load: {
    label: "Load",
    least: 1,
    ratio: true,
    unit: "",
    series: [{ key: "load", label: "Load", style: "s1", format: "percent", area: true, none: "no data" }],
  },
  queue: {
    label: "Waiting requests",
    least: 10,
    unit: "",
    height: 80,
    series: [{ key: "pending", label: "Waiting", style: "s1", format: "count", area: true }],
  },
};
const CONFIG_SECONDS = 30;

const history = new History();
/** @type {Map<string, Chart>} */
const charts = new Map();
const cursor = (/** @type {number | null} */ time) => charts.forEach((chart) => chart.point(time));
for (const host of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-chart]"))) {
  const name = host.dataset.chart ?? "";
  charts.set(name, new Chart(host, PLANS[name], cursor));
}

/** @type {Date | null} when the figures that are shown were taken */
let shownAt = null;
/** @type {Link} */
let link = { kind: "connecting" };
let retryAt = 0;
let restarts = 0;
let configAt = Number.NEGATIVE_INFINITY;

/** @param {string} data */
function onEvent(data) {
  const figures = /** @type {import("./figures.js").Figures} */ (JSON.parse(data));
  if (history.take(figures)) {
    restarts += 1;
    configAt = Number.NEGATIVE_INFINITY;
    showLink();
  }
  shownAt = new Date(1000 * Number(history.latest?.time ?? 0));
  show(figures, history.latest);
  for (const chart of charts.values()) chart.show(history.points);
  if (performance.now() - configAt > 1000 * CONFIG_SECONDS) showConfig();
}

/** @param {Link} now */
function onLink(now) {
  if (now.kind === link.kind && now.kind !== "lost") return;
  // While it tries again, it is still lost: the words change once there is news.
  if (now.kind === "connecting" && link.kind === "lost") return;
  link = now;
  if (now.kind === "lost") retryAt = performance.now() + 1000 * now.seconds;
  showLink();
}

function showLink() {
  const restarted = restarts === 0 ? "" : `; the server was restarted${restarts === 1 ? "" : ` ${restarts} times`}`;
  const words = { connecting: "Connecting", live: `Live${restarted}`, paused: "Paused while hidden", lost: "Connection lost" };
  const states = { connecting: "connecting", live: "good", paused: "connecting", lost: "bad" };
  byId("link").dataset.state = states[link.kind];
  say(byId("link-words"), words[link.kind]);
  byId("lost").hidden = link.kind !== "lost";
  if (link.kind === "lost") unknown();
  byId("main").classList.toggle("stale", link.kind === "lost" || link.kind === "paused");
  countDown();
}

function countDown() {
  if (link.kind !== "lost") return;
  const seconds = Math.ceil((retryAt - performance.now()) / 1000);
  const from = shownAt === null ? "There are no figures yet." : `The figures below are from ${shownAt.toLocaleTimeString("en-GB")}.`;
  say(byId("lost-words"), `Connection lost: ${link.reason}. ${from} ${seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again."}`);
}

async function showConfig() {
  configAt = performance.now();
  try {
    const response = await fetch("config", { cache: "no-store" });
    if (!response.ok) return;
    const config = await response.json();
    const { model, batching } = config.spec;
    const workers = `${config.workers} ${config.workers === 1 ? "worker" : "workers"}`;
    say(byId("about"), `Model ${model.name}: depth ${model.membraneDepth}, size ${model.esnSize} \u00b7 ${config.backend}, ${workers}`);
    document.title = `${model.name} \u00b7 dtesn-batcher`;
    say(byId("window"), inWords(batching.performanceWindowSize, "count"));
    const { lowLoadThreshold: low, highLoadThreshold: high } = batching;
    charts.get("load")?.mark([low, high], `thresholds ${inWords(low, "percent")}, ${inWords(high, "percent")}`);
    const { enableCircuitBreaker: breaks, failureThreshold: failures } = batching;
    const rule = failures === 1 ? "1 failed batch" : `${inWords(failures, "count")} failed batches in a row`;
    say(byId("breaker-rule"), breaks ? rule : "never: it is switched off");
    say(byId("footer"), `Version ${config.version}.`);
    const wrong = config.reload_errors.map((/** @type {{message: string}} */ error) => error.message);
    const waits = config.needs_restart.length === 0 ? "" : `These changes wait for a restart: ${config.needs_restart.join(", ")}.`;
    byId("config-notice").hidden = wrong.length === 0 && waits === "";
    say(byId("config-words"), wrong.length === 0 ? waits : `The configuration file was not taken, the old settings are in force: ${wrong.join("; ")}. ${waits}`);
  } catch {
    // The connection is gone, which the event stream says; the next event asks again.
  }
}

byId("again").addEventListener("click", follow("events", onEvent, onLink));
setInterval(countDown, 1000);
start();
