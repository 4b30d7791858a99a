// One job: what it did, who asked for it, and what its comparison found.
import { useLoad } from "../load.js";
import { live } from "../live.js";
import { duration, words } from "../format.js";
import { Facts, Heading, Moment, Panel } from "../parts/basic.js";
import { GateReport } from "../parts/gate_report.js";
import { JobActions, JobState, Progress, advanced, isOpen } from "../parts/job_line.js";
import { Loaded } from "../parts/states.js";
import { useStore } from "../store.js";
import { html } from "../ui.js";

export function Job({ id }) {
  const state = useLoad(`/ops/jobs/${encodeURIComponent(id ?? "")}`, ["jobs"]);
  const { overview } = useStore(live);
  return html`
    <${Heading} title=${`Job ${id}`} />
    <${Loaded} of=${state} what="Reading the job">
      ${(read) => {
        const job = advanced(read, overview?.jobs);
        return html`
          <${Panel} title="What it is">
            <${Facts} of=${{
              Kind: words(job.kind),
              State: html`<${JobState} job=${job} />`,
              Generation: job.generation,
              "Started by": job.started_by,
              Started: html`<${Moment} at=${job.started_at} />`,
              Ended: job.ended_at && html`<${Moment} at=${job.ended_at} />`,
              Took: job.ended_at && duration((new Date(job.ended_at) - new Date(job.started_at)) / 1000),
              Outcome: job.outcome,
            }} />
            ${isOpen(job) && html`<${Progress} job=${job} /><${JobActions} job=${job} />`}
          <//>
          ${read.report && html`<${Panel} title="What the comparison found"><${GateReport} report=${read.report} /><//>`}
        `;
      }}
    <//>
  `;
}
