// What stands where an answer is not there yet, is empty, or failed: each state is a sentence.
import { html, useEffect, useState } from "../ui.js";
import { Prose } from "./prose.js";

const QUIET_MS = 250;

/** A note while something is read; it appears after a moment, so that quick answers do not flicker. */
export function Loading({ what = "Reading" }) {
  const [shown, setShown] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setShown(true), QUIET_MS);
    return () => clearTimeout(timer);
  }, []);
  return html`<p class="state state-loading" role="status">${shown ? `${what} …` : "\u00a0"}</p>`;
}

export function Empty({ title, children }) {
  return html`<div class="state state-empty">
    <p class="state-title">${title}</p>
    ${children && html`<p>${children}</p>`}
  </div>`;
}

const TITLES = {
  unreachable: "No connection to the API",
  deadline: "No answer in time",
  unreadable: "An answer that cannot be read",
  insufficient_scope: "This credential may not operate",
  rate_limited: "Too many requests",
  broker_unavailable: "The event stream does not answer",
  broker_not_configured: "This API reads no event stream",
  stream_unavailable: "The event stream cannot be shown",
  database_unavailable: "The database does not answer",
  overloaded: "The API is busy",
  draining: "The API is shutting down",
  internal_error: "The API failed",
};

export function titleOf(problem) {
  if (TITLES[problem.code]) return TITLES[problem.code];
  return problem.status === 404 ? "Not found" : problem.status === 422 ? "Not accepted" : "This did not work";
}

/** A failed request: what happened, and a button that tries again. */
export function ProblemNote({ problem, retry }) {
  return html`<div class="state state-problem" role="alert">
    <p class="state-title">${titleOf(problem)}</p>
    <p><${Prose} of=${problem.sentence} /></p>
    ${problem.body?.request_id && html`<p class="fine">Request <code>${problem.body.request_id}</code></p>`}
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;
}

/** Draw `children(answer)` once it is there; an old answer stays visible, marked, when reading it again fails. */
export function Loaded({ of, what, children }) {
  if (!of.answer) {
    return of.problem
      ? html`<${ProblemNote} problem=${of.problem} retry=${of.reload} />`
      : html`<${Loading} what=${what} />`;
  }
  return html`
    ${of.problem && html`<${ProblemNote} problem=${of.problem} retry=${of.reload} />`}
    <div class=${of.problem ? "is-old" : null}>${children(of.answer)}</div>
  `;
}
