// One job: its phase, how far it is, its rate and the time left, and the actions that it allows.
import { count, decimal, duration, moment, words } from "../format.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { Moment, Pill } from "./basic.js";
import { Prose } from "./prose.js";
import { PlanButton } from "./plan_button.js";

const TONES = { running: "work", done: "ok", refused: "warn", interrupted: "warn", failed: "bad", cancelled: "plain" };

const WHAT_NEXT = {
  refused: "Nothing was switched. Start a rebuild again: it compares again and asks again. Cancelling drops the new generation.",
  interrupted: "Its process has ended. Start the same kind of job again: it resumes where it was. Or cancel it.",
};

export const isOpen = (job) => !job.ended_at;

const PROGRESS = ["phase", "done", "total", "rate_per_s", "eta_s"];

/** A job as it was read, with its progress as it was heard since. */
export function advanced(job, heardJobs = []) {
  const heard = heardJobs.find((other) => other.job_id === job.job_id);
  if (!heard || !isOpen(job)) return job;
  return { ...job, ...Object.fromEntries(PROGRESS.map((name) => [name, heard[name]])) };
}

export function JobState({ job }) {
  if (job.awaits_approval) return html`<${Pill} tone="warn">awaits a decision<//>`;
  return html`<${Pill} tone=${TONES[job.state] ?? "plain"}>${words(job.state)}<//>`;
}

export function JobLine({ job }) {
  return html`<article class="job-line">
    <p class="job-title">
      <a href=${href("job", job.job_id)}>Job ${job.job_id}</a>
      <span>${words(job.kind)}</span>
      <${JobState} job=${job} />
      ${job.generation && html`<span class="fine">makes ${job.generation}</span>`}
      ${job.awaits_until && html`<span class="fine">until ${moment(job.awaits_until)}</span>`}
    </p>
    ${isOpen(job) && html`<${Progress} job=${job} />`}
    ${WHAT_NEXT[job.state] && html`<p>${WHAT_NEXT[job.state]}</p>`}
    ${isOpen(job) && job.outcome && html`<p><${Prose} of=${job.outcome} /></p>`}
    ${isOpen(job) && html`<${JobActions} job=${job} />`}
  </article>`;
}

export function Progress({ job }) {
  const share = job.total ? Math.min(1, (job.done ?? 0) / job.total) : null;
  const parts = [
    job.total ? `${count(job.done ?? 0)} of ${count(job.total)}` : null,
    job.rate_per_s ? `${decimal(job.rate_per_s)}/s` : null,
    job.eta_s !== undefined && job.eta_s !== null ? `${duration(job.eta_s)} left` : null,
  ].filter(Boolean);
  return html`<div class="progress">
    <p><strong>${words(job.phase)}</strong> <span class="fine">${parts.join(" · ")}</span></p>
    ${share !== null && html`<progress value=${share} max="1" aria-label=${`Phase ${words(job.phase)}`}></progress>`}
  </div>`;
}

export function JobActions({ job }) {
  const parameters = { job_id: job.job_id };
  return html`<div class="actions">
    ${job.awaits_approval &&
    html`<${PlanButton} className="primary" wanted=${{ title: "Approve the switch", verb: "Approve", action: "approve", parameters }}>Approve …<//>
      <${PlanButton} wanted=${{ title: "Refuse the switch", verb: "Refuse", action: "refuse", parameters }}>Refuse …<//>`}
    <${PlanButton} wanted=${{ title: `Cancel job ${job.job_id}`, verb: "Cancel the job", action: "cancel", parameters, danger: true }}>Cancel the job …<//>
  </div>`;
}

export const jobColumns = [
  { label: "Job", cell: (job) => html`<a href=${href("job", job.job_id)}>${job.job_id}</a>` },
  { label: "Kind", cell: (job) => words(job.kind) },
  { label: "State", cell: (job) => html`<${JobState} job=${job} />` },
  { label: "Outcome", wide: true, cell: (job) => html`<${Prose} of=${job.outcome ?? (isOpen(job) ? words(job.phase) : "–")} />` },
  { label: "Started", cell: (job) => html`<${Moment} at=${job.started_at} />` },
  { label: "Took", numeric: true, cell: (job) => (job.ended_at ? duration((new Date(job.ended_at) - new Date(job.started_at)) / 1000) : "–") },
  { label: "By", cell: (job) => job.started_by ?? "–" },
];
