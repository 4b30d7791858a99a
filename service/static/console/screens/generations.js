// Generations: a lane for each copy of the read model, the jobs that fill them, and what the gate found.
import { count, moment, plural, words } from "../format.js";
import { live } from "../live.js";
import { useLoad } from "../load.js";
import { Heading, Moment, Panel, Pill } from "../parts/basic.js";
import { GateReport } from "../parts/gate_report.js";
import { JobLine, advanced, isOpen, jobColumns } from "../parts/job_line.js";
import { PlanButton } from "../parts/plan_button.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { useStore } from "../store.js";
import { html } from "../ui.js";

const TONES = { live: "ok", following: "work", filling: "work", broken: "bad" };
const MEANINGS = {
  live: "Readers see this copy.",
  following: "The projector writes every event to it too: a roll back loses nothing.",
  filling: "A job fills it from the stream. Readers do not see it.",
  broken: "Its tables refused an event or cannot be read. It no longer follows.",
};

export function Generations() {
  const state = useLoad("/ops/generations", ["generations", "jobs"]);
  const past = useLoad("/ops/jobs?limit=20", ["jobs"]);
  const { overview } = useStore(live);
  const openJobs = overview?.jobs ?? state.answer?.jobs ?? [];
  const busy = openJobs.length > 0;
  return html`
    <${Heading} title="Generations" about="Each is a complete copy of the read model. One is live; a rebuild makes the next beside it.">
      <${PlanButton} wanted=${VERIFY}>Verify …<//>
      <${PlanButton} wanted=${REBUILD} className=${busy ? "" : "primary"}>Rebuild …<//>
      <${PlanButton} wanted=${ROLL_BACK}>Roll back …<//>
    <//>
    <${Loaded} of=${state} what="Reading the generations">
      ${(answer) => html`<${Lanes} answer=${answer} overview=${overview} />`}
    <//>
    <${Panel} title="Jobs">
      <${Loaded} of=${past} what="Reading the jobs">
        ${({ jobs }) =>
          jobs.length === 0
            ? html`<${Empty} title="No job has run yet">A rebuild, a verification or an erasure appears here.<//>`
            : html`<${Table} caption="Jobs, newest first" columns=${jobColumns} rows=${jobs} keyOf=${(job) => job.job_id} />`}
      <//>
    <//>
  `;
}

const VERIFY = { title: "Verify the live rows", verb: "Verify", action: "verify", parameters: {}, running: "Folding the stream and comparing every row." };
const REBUILD = { title: "Rebuild the read model", verb: "Rebuild", action: "rebuild", parameters: {}, running: "Building a new generation; readers notice nothing." };
const ROLL_BACK = { title: "Roll back", verb: "Roll back", action: "rollback", parameters: {}, danger: true, running: "Switching readers." };

function Lanes({ answer, overview }) {
  const fresh = (job) => advanced(job, overview?.jobs);
  const end = Number(overview?.stream_position ?? Math.max(...answer.generations.map((lane) => Number(lane.position)), 1));
  const attached = new Set(answer.generations.map((lane) => lane.job?.job_id).filter(Boolean));
  const others = (answer.jobs ?? []).filter((job) => !attached.has(job.job_id) && isOpen(job));
  return html`
    <ol class="lanes">${answer.generations.map((lane) => html`<${Lane} key=${lane.generation} lane=${lane} end=${end} overview=${overview} fresh=${fresh} />`)}</ol>
    ${others.map((job) => html`<section class="panel" key=${job.job_id} aria-label=${`Job ${job.job_id}`}>
      <${JobLine} job=${fresh(job)} />
      ${job.report && html`<${GateReport} report=${job.report} />`}
    </section>`)}
  `;
}

function Lane({ lane, end, overview, fresh }) {
  const position = lane.state === "live" && overview ? overview.position : lane.position;
  const share = end > 0 ? Math.min(1, Number(position) / end) : 0;
  return html`<li class=${`lane lane-${lane.state}`}>
    <div class="lane-name">
      <h2>${lane.generation}</h2>
      <${Pill} tone=${TONES[lane.state]}>${words(lane.state)}<//>
      ${lane.is_previous && html`<span class="fine">a roll back returns to it</span>`}
    </div>
    <div class="lane-body">
      <progress value=${share} max="1" aria-label=${`${lane.generation}: share of the stream`}></progress>
      <p class="lane-facts">
        <span>at <strong class="number">${count(position)}</strong></span>
        ${lane.lag_events !== undefined && html`<span>${plural(lane.lag_events, "event")} behind</span>`}
        <span>made <${Moment} at=${lane.created_at} /></span>
        ${lane.follows_until && html`<span>kept until ${moment(lane.follows_until)}</span>`}
      </p>
      <p class="fine">${MEANINGS[lane.state]}</p>
      ${lane.job && html`<div class="lane-job">
        <${JobLine} job=${fresh(lane.job)} />
        ${lane.job.report && html`<${GateReport} report=${lane.job.report} />`}
      </div>`}
    </div>
  </li>`;
}
