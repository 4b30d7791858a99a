// Draws a plan in its dialog or inside a screen: the count, the consequence, a sample, and the form that runs it.
import { count, duration, plural } from "../format.js";
import { usePlan } from "../plan.js";
import { html, useEffect, useId, useRef, useState } from "../ui.js";
import { useNow } from "./basic.js";
import { Dialog } from "./dialog.js";
import { Prose } from "./prose.js";
import { Sample } from "./sample.js";
import { Loading, ProblemNote } from "./states.js";

/** A plan in a dialog. `wanted` is `{title, verb, action, parameters, danger?}`. */
export function PlanDialog({ wanted, onClose }) {
  return html`<${Dialog} title=${wanted.title} onClose=${onClose}>
    <${PlanView} wanted=${wanted} onClose=${onClose} />
  <//>`;
}

/** A plan where it is needed; `onClose` ends it. */
export function PlanView({ wanted, onClose }) {
  const plan = usePlan(wanted.action, wanted.parameters);
  const View = VIEWS[plan.step];
  const box = useRef(null);
  useEffect(() => {
    // The button that was pressed is gone: keep the focus where the outcome is.
    if (plan.step !== "asking" && !box.current.contains(document.activeElement)) box.current.focus({ preventScroll: true });
  }, [plan.step]);
  return html`<div class="plan" tabindex="-1" ref=${box}><${View} plan=${plan} wanted=${wanted} onClose=${onClose} /></div>`;
}

const Asking = () => html`<${Loading} what="Counting what this would change" />`;

/** `count` with its unit, as the largest figure of the dialog. */
function Consequence({ of, tone }) {
  return html`<div class="consequence">
    <p class=${`consequence-count ${tone ?? ""}`}>
      <span class="number">${count(of.count)}</span>
      <span class="unit">${plural(of.count, of.unit ?? "item").replace(/^\S+ /, "")}</span>
    </p>
    <div>
      <p class="consequence-sentence"><${Prose} of=${of.sentence} /></p>
      ${of.details?.length > 0 && html`<ul class="details">${of.details.map((line) => html`<li key=${line}><${Prose} of=${line} /></li>`)}</ul>`}
    </div>
  </div>`;
}

function Ready({ plan, wanted, onClose }) {
  const { plan: of } = plan;
  const sending = plan.step === "sending";
  const nothing = Number(of.count) === 0 && wanted.needsCount;
  return html`
    <${Consequence} of=${of} tone=${wanted.danger ? "bad" : null} />
    <${Sample} of=${of} />
    ${nothing
      ? html`<div class="dialog-actions"><button type="button" onClick=${onClose}>Close</button></div>`
      : html`<${RunForm} plan=${plan} wanted=${wanted} sending=${sending} onClose=${onClose} />`}
  `;
}

function RunForm({ plan, wanted, sending, onClose }) {
  const { plan: of, problem } = plan;
  const [reason, setReason] = useState("");
  const [word, setWord] = useState("");
  const [missing, setMissing] = useState(null);
  const form = useRef(null);
  const [reasonId, wordId, problemId] = [useId(), useId(), useId()];
  const submit = (event) => {
    event.preventDefault();
    const lack = lacking(reason, word, of.confirm_word);
    setMissing(lack);
    if (lack) form.current.querySelector(`[name=${lack.field}]`).focus();
    else plan.run(reason.trim(), of.confirm_word ? word : undefined);
  };
  const said = missing?.sentence ?? problem?.sentence;
  return html`<form class="run" ref=${form} onSubmit=${submit} novalidate>
    <div class="field">
      <label for=${reasonId}>Reason <span class="fine">kept in the audit</span></label>
      <input id=${reasonId} name="reason" maxlength="500" autocomplete="off" value=${reason}
        aria-describedby=${said ? problemId : null} onInput=${(event) => setReason(event.target.value)} />
    </div>
    ${of.confirm_word &&
    html`<div class="field">
      <label for=${wordId}>Type <code class="confirm-word">${of.confirm_word}</code> to confirm</label>
      <input id=${wordId} name="confirm" autocomplete="off" autocapitalize="off" spellcheck="false" value=${word}
        onInput=${(event) => setWord(event.target.value)} />
    </div>`}
    ${said && html`<p id=${problemId} class="inline-problem" role="alert">${said}</p>`}
    <div class="dialog-actions">
      <${Expiry} at=${of.expires_at} onExpired=${plan.expire} />
      <button type="button" onClick=${onClose}>Leave as it is</button>
      <button type="submit" class=${wanted.danger ? "danger" : "primary"} disabled=${sending}>
        ${sending ? "Sending …" : wanted.verb}
      </button>
    </div>
  </form>`;
}

function lacking(reason, word, confirmWord) {
  if (!reason.trim()) return { field: "reason", sentence: "Say why: the reason is kept in the audit." };
  if (confirmWord && word !== confirmWord) return { field: "confirm", sentence: `Type the word ${confirmWord} exactly.` };
  return null;
}

function Expiry({ at, onExpired }) {
  const left_s = Math.max(0, Math.ceil((new Date(at).getTime() - useNow()) / 1000));
  const isOver = left_s === 0;
  useEffect(() => {
    if (isOver) onExpired();
  }, [isOver, onExpired]);
  return html`<span class="fine expiry">The plan holds for ${left_s < 60 ? `${left_s} s` : duration(left_s)}</span>`;
}

function Running({ plan, wanted, onClose }) {
  const { plan: of } = plan;
  const queued = of.state === "queued";
  return html`
    <${Consequence} of=${of} />
    <p class="state" role="status">
      ${queued ? "Queued: the job runner takes it within seconds." : wanted.running ?? "Running."}
      ${of.done > 0 && ` ${count(of.done)} of ${count(of.count)} done.`}
    </p>
    ${!queued && of.done > 0 && html`<progress value=${of.done} max=${of.count} aria-label="Done"></progress>`}
    <div class="dialog-actions">
      <span class="fine">It continues if you close this.</span>
      <button type="button" onClick=${onClose}>Close</button>
    </div>
  `;
}

function Done({ plan, onClose }) {
  const { plan: of, secret } = plan;
  return html`
    <div class="outcome outcome-ok" role="status">
      <p class="state-title">Done</p>
      <p><${Prose} of=${of.outcome ?? of.sentence} /></p>
    </div>
    ${secret && html`<${Secret} of=${secret} />`}
    <div class="dialog-actions">
      <span class="fine">In the audit.</span>
      <button type="button" class="primary" onClick=${onClose}>Close</button>
    </div>
  `;
}

function Secret({ of }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(of).then(() => setCopied(true), () => setCopied(false));
  return html`<div class="secret">
    <p>Send it as <code>X-API-Key</code>. It cannot be shown again; keep it safe.</p>
    <p><code class="secret-value">${of}</code></p>
    <button type="button" onClick=${copy}>${copied ? "Copied" : "Copy"}</button>
  </div>`;
}

function Failed({ plan, onClose }) {
  const { plan: of } = plan;
  return html`
    <div class="outcome outcome-bad" role="alert">
      <p class="state-title">This did not work</p>
      <p><${Prose} of=${of.outcome ?? "The run failed without a reason; see the log of the job runner."} /></p>
    </div>
    <div class="dialog-actions">
      <button type="button" onClick=${onClose}>Close</button>
      <button type="button" class="primary" onClick=${plan.ask}>Make a new plan</button>
    </div>
  `;
}

/** The plan no longer holds: both counts, and a button that asks again. */
function Stale({ plan, onClose }) {
  const { problem, plan: of } = plan;
  const [before, now] = [problem?.body?.planned_count ?? of?.count, problem?.body?.current_count];
  return html`
    <div class="outcome outcome-warn" role="alert">
      <p class="state-title">This plan no longer holds</p>
      <p><${Prose} of=${problem?.sentence ?? of.outcome} /></p>
      ${now !== undefined &&
      html`<p class="stale-counts"><span class="number">${count(before)}</span> then, <span class="number">${count(now)}</span> now</p>`}
      <p>Nothing was changed.</p>
    </div>
    <div class="dialog-actions">
      <button type="button" onClick=${onClose}>Leave as it is</button>
      <button type="button" class="primary" onClick=${plan.ask}>Make a new plan</button>
    </div>
  `;
}

function Nothing({ plan, onClose }) {
  return html`
    <div class="outcome" role="status">
      <p class="state-title">Nothing to do</p>
      <p><${Prose} of=${plan.problem?.sentence ?? plan.plan.outcome} /></p>
    </div>
    <div class="dialog-actions"><button type="button" class="primary" onClick=${onClose}>Close</button></div>
  `;
}

const Refused = ({ plan }) => html`<${ProblemNote} problem=${plan.problem} retry=${plan.ask} />`;

const VIEWS = {
  asking: Asking,
  ready: Ready,
  sending: Ready,
  running: Running,
  done: Done,
  failed: Failed,
  nothing: Nothing,
  stale: Stale,
  problem: Refused,
};
