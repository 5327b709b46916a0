// @ts-check
/** The form: sends one request, shows the answer, where its time went, and what was wrong with it. */
import { bars, byId, make, say } from "./dom.js";
import { inWords } from "./format.js";
import { CLOSED_BY } from "./words.js";

const PATH = "dtesn/process_with_batching";
const NUMBERS = ["membrane_depth", "esn_size"];

/**
 * @typedef {{name: string, duration: number | null, description: string}} Timed
 * @typedef {Record<string, any>} Answer  a ProcessResponse or a ProblemDocument of /openapi.json
 */

/** Wire the form up. */
export function start() {
  const form = /** @type {HTMLFormElement} */ (byId("try"));
  form.addEventListener("input", () => showCurl(form));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("send").getAttribute("aria-disabled") !== "true") send(form);
  });
  showCurl(form);
}

/**
 * The request's body. What is not a whole number is sent as it is, so that the server says what it expects.
 * @param {HTMLFormElement} form
 */
function bodyOf(form) {
  const data = new FormData(form);
  /** @type {Record<string, unknown>} */
  const body = { input_data: data.get("input_data"), input_format: "text" };
  for (const name of NUMBERS) {
    const text = String(data.get(name)).trim();
    if (text !== "") body[name] = /^-?\d+$/.test(text) ? Number(text) : text;
  }
  body.priority = Number(data.get("priority"));
  body.enable_batching = data.has("enable_batching");
  return JSON.stringify(body);
}

/** @param {HTMLFormElement} form */
function showCurl(form) {
  const url = new URL(PATH, document.baseURI);
  say(byId("curl"), `curl ${url} -H 'Content-Type: application/json' \\\n  -d '${bodyOf(form).replaceAll("'", "'\\''")}'`);
}

/** @param {HTMLFormElement} form */
async function send(form) {
  clear();
  byId("send").setAttribute("aria-disabled", "true");
  tell("Sent; waiting for the answer.", "");
  const began = performance.now();
  try {
    const response = await fetch(PATH, { method: "POST", headers: { "Content-Type": "application/json" }, body: bodyOf(form) });
    const text = await response.text();
    const elapsed = performance.now() - began;
    const answer = /** @type {Answer} */ (JSON.parse(text));
    if (response.ok) showAnswer(answer);
    else showProblem(answer, response.headers.get("Retry-After"));
    showTiming(timesOf(response.headers.get("Server-Timing") ?? ""), elapsed);
    say(byId("answer-json"), JSON.stringify(answer, null, 2));
    byId("answer-body").hidden = false;
  } catch (error) {
    const reason = error instanceof SyntaxError ? "what came back is not JSON" : "the server cannot be reached";
    tell(`No answer: ${reason}.`, "bad");
  } finally {
    byId("send").removeAttribute("aria-disabled");
  }
}

function clear() {
  byId("answer-body").hidden = true;
  for (const wrong of document.querySelectorAll("#try .wrong")) {
    /** @type {HTMLElement} */ (wrong).hidden = true;
    say(wrong, "");
  }
  for (const field of document.querySelectorAll("#try [aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

/** @param {Answer} answer */
function showAnswer({ result }) {
  const { processed_output: output, engine_integration: how } = result;
  const model = output.model;
  const facts = [
    ["Model", `${model.name}, depth ${model.membrane_depth}, size ${model.esn_size}`],
    ["Input", `${output.nodes} nodes, height ${output.height}`],
    ["Computed with others", how.batch_processed ? "yes" : "no"],
    ["Went through the batch manager", how.dynamic_batching ? "yes" : "no"],
    ...valuesOf(output),
  ];
  byId("answer-facts").replaceChildren(...facts.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));
  tell(`Answered in ${inWords(result.processing_time_ms, "ms")} ms.`, "good");
}

/**
 * @param {Answer} output
 * @returns {[string, string][]}
 */
function valuesOf(output) {
  if (output.prediction !== undefined) {
    const found = Array.isArray(output.prediction) ? output.prediction.join(", ") : String(output.prediction);
    const score = output.scores?.[found];
    return [["Prediction", score === undefined ? found : `${found} (score ${score})`]];
  }
  const layers = /** @type {any[]} */ (output.summary ?? []);
  return layers.map(({ root, mean }, i) => [`Layer ${i + 1}, norm`, `root ${root.norm.toPrecision(4)}, mean ${mean.norm.toPrecision(4)}`]);
}

/**
 * @param {Answer} problem
 * @param {string | null} retryAfter
 */
function showProblem(problem, retryAfter) {
  const faults = problem.errors ?? (problem.field === undefined ? [] : [problem]);
  for (const fault of faults) mark(fault.field, fault.message ?? problem.detail);
  const again = retryAfter === null ? "" : ` Try again in ${retryAfter} s.`;
  tell(`${problem.status} ${problem.title}: ${problem.detail}.${again}`, "bad");
  byId("answer-facts").replaceChildren();
  /** @type {HTMLElement | null} */ (document.querySelector("#try [aria-invalid]"))?.focus();
}

/**
 * Say at a field what is wrong with it.
 * @param {string} name
 * @param {string} message
 */
function mark(name, message) {
  const field = document.querySelector(`#try [name="${CSS.escape(name)}"]`);
  const wrong = document.getElementById(`${name}-wrong`);
  if (field === null || wrong === null) return;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", wrong.id);
  say(wrong, message);
  wrong.hidden = false;
}

/**
 * The entries of a Server-Timing header.
 * @param {string} header
 * @returns {Timed[]}
 */
function timesOf(header) {
  return [...header.matchAll(/(\w+)(?:;dur=([\d.]+))?(?:;desc="([^"]*)")?(?:,|$)/g)].map(([, name, duration, description]) => ({
    name,
    duration: duration === undefined ? null : Number(duration),
    description: description ?? "",
  }));
}

/**
 * @param {Timed[]} times
 * @param {number} elapsed ms, as seen by the browser
 */
function showTiming(times, elapsed) {
  const of = (/** @type {string} */ name) => times.find((time) => time.name === name);
  const total = of("total")?.duration ?? 0;
  const known = [["build", "Building the model"], ["queue", "In the queue"], ["compute", "Computing"]];
  const rows = known.flatMap(([key, label]) => {
    const value = of(key)?.duration;
    return value === null || value === undefined ? [] : [{ key, label, value, shown: `${inWords(value, "ms")} ms` }];
  });
  const rest = Math.max(0, total - rows.reduce((sum, row) => sum + row.value, 0));
  rows.push({ key: "rest", label: "Elsewhere in the server", value: rest, shown: `${inWords(rest, "ms")} ms` });
  const way = Math.max(0, elapsed - total);
  rows.push({ key: "way", label: "On the way and in the browser", value: way, shown: `${inWords(way, "ms")} ms` });
  bars(byId("timing"), rows);
  const closed = of("closed")?.description;
  if (closed === undefined) return;
  const [label] = CLOSED_BY[closed] ?? [closed];
  const facts = [["Items in its batch", of("batch")?.description ?? ""], ["Its batch closed because", label]];
  byId("answer-facts").prepend(...facts.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));
}

/**
 * @param {string} words
 * @param {string} state
 */
function tell(words, state) {
  const place = byId("answer-words");
  place.dataset.state = state;
  say(place, words);
}
