// @ts-check
/** What the server's short words mean. A word that is not known here is shown as it is. */

/** @type {Record<string, [label: string, meaning: string]>} */
export const CLOSED_BY = {
  full: ["Full", "The batch had as many items as it may."],
  window: ["Window over", "Its window for filling ended."],
  idle: ["Nothing to wait for", "A worker was free, and no other request was expected soon."],
  deadline: ["Deadline", "Waiting longer would have missed a request's deadline."],
  nodes: ["Node budget", "Its inputs had as many nodes as a batch may."],
  drain: ["Draining", "The server is ending, so windows close at once."],
  direct: ["Run alone, as asked", "The request asked not to be batched."],
  breaker: ["Run alone, breaker open", "Batches fail, so requests run one by one."],
  probe: ["Breaker's probe", "One batch tries whether batching works again."],
  other: ["Other", "A reason of a strategy of one's own."],
};

/** @type {Record<string, [label: string, meaning: string]>} */
export const OUTCOMES = {
  ok: ["Answered", ""],
  failed: ["Failed in compute (500)", "This request alone failed."],
  invalid: ["Input at fault (422)", ""],
  unavailable: ["Unavailable (503)", "Out of memory, worker lost or stopped."],
  expired: ["Deadline passed (504)", ""],
  displaced: ["Displaced (429)", "A more urgent request took its place in a full queue."],
  cancelled: ["Client left", ""],
  refused: ["Refused (429, 503)", "Not accepted: queue full, or it could not be answered in time."],
};

/** @type {Record<string, {label: string, state: string, meaning: string}>} */
export const BREAKER = {
  closed: { label: "Closed", state: "good", meaning: "Batches run." },
  open: { label: "Open", state: "bad", meaning: "Batches failed one after another: requests run one by one." },
  half_open: { label: "Half-open", state: "warn", meaning: "A probe decides whether batches run again." },
};

/** @type {Record<string, {label: string, state: string}>} */
export const PHASES = {
  starting: { label: "Starting", state: "warn" },
  serving: { label: "Serving", state: "good" },
  leaving: { label: "Leaving: still serving", state: "warn" },
  closed: { label: "Draining", state: "warn" },
};

export const PRIORITIES = ["0, highest", "1", "2, lowest"];
