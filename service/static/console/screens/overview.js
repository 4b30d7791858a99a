// The overview: how far the live generation is behind the stream, and whether anything needs the operator.
import { count, decimal, duration, percent, plural } from "../format.js";
import { live } from "../live.js";
import { useLoad } from "../load.js";
import { Heading, Panel, useNow } from "../parts/basic.js";
import { LastHour } from "../parts/chart.js";
import { JobLine } from "../parts/job_line.js";
import { Prose } from "../parts/prose.js";
import { Empty, Loaded } from "../parts/states.js";
import { pathOf } from "../api.js";
import { href } from "../router.js";
import { useStore } from "../store.js";
import { html, useMemo } from "../ui.js";

const MINUTES = 60;
const TREND_S = 60;
/** A change of the lag below both is noise. */
const TREND_EVENTS = 5;
const TREND_SHARE = 0.1;

export function Overview() {
  const { overview: heard, status } = useStore(live);
  const first = useLoad("/ops/overview");
  const hour = useLoad(pathOf("/ops/samples", { minutes: MINUTES }), ["samples"]);
  const overview = consistent(heard ?? first.answer);
  const samples = useMemo(() => joined(hour.answer?.samples ?? [], heard), [hour.answer, heard?.at]);
  return html`
    <${Heading} title="Overview" about="How far readers are behind the event stream, and what needs an operator." />
    <${Loaded} of=${{ ...first, answer: overview, problem: overview ? null : first.problem }} what="Reading the state">
      ${(now) => html`<div class=${status === "lost" ? "is-old" : null}>
        <${Problems} of=${now} />
        <${Hero} of=${now} samples=${samples} />
        <${Figures} of=${now} />
        <${Hour} hour=${hour} samples=${samples} />
        <${Jobs} of=${now.jobs ?? []} />
      </div>`}
    <//>
  `;
}

/** The stream is measured every few seconds, the applied position is read now: the stream is at least as far. */
function consistent(overview) {
  const { position, stream_position: end } = overview ?? {};
  return end === undefined || end === null ? overview : { ...overview, stream_position: Math.max(Number(end), Number(position)) };
}

/** The samples that were read, and after them what was heard since. */
const heardSince = [];
function joined(samples, heard) {
  const last = heardSince.at(-1);
  if (heard && (!last || last.at < heard.at)) heardSince.push(consistent(heard));
  while (heardSince.length > 0 && Date.now() - new Date(heardSince[0].at) > MINUTES * 60_000) heardSince.shift();
  const end = samples.at(-1)?.at ?? "";
  return [...samples, ...heardSince.filter((sample) => sample.at > end)];
}

function Problems({ of }) {
  const problems = of.problems ?? [];
  if (problems.length === 0) return null;
  return html`<section class="problems" aria-label="What needs an operator">
    <ul>${problems.map((sentence) => html`<li key=${sentence}><${Prose} of=${sentence} /></li>`)}</ul>
  </section>`;
}

function Hero({ of, samples }) {
  const knowsStream = of.stream_position !== undefined && of.stream_position !== null;
  return html`<section class="hero" aria-label="Positions">
    <div class="hero-main">
      <p class="hero-sentence">${sentence(of, knowsStream)}</p>
      <div class="hero-pair">
        <div><p class="label">Applied by <strong>${of.generation}</strong></p><p class="hero-number" data-testid="position">${count(of.position)}</p></div>
        <div><p class="label">In the stream</p><p class="hero-number hero-stream" data-testid="stream-position">${count(of.stream_position)}</p></div>
      </div>
      <${Track} of=${of} />
    </div>
    <div class="hero-lag">
      <p class="label">Lag</p>
      <p class=${`hero-number ${lagTone(of)}`} data-testid="lag">${count(of.lag_events)}</p>
      <p class="hero-unit">${plural(of.lag_events ?? 0, "event").replace(/^\S+ /, "")}</p>
      <p class="hero-seconds">${of.lag_s === undefined ? "age unknown" : duration(of.lag_s)}</p>
      <${Trend} of=${of} samples=${samples} />
    </div>
  </section>`;
}

function sentence(of, knowsStream) {
  if (!of.leader) return "No projector leads: nothing is applied.";
  if (!knowsStream) return "Readers see every event that was applied; the end of the stream is unknown.";
  if (!of.lag_events && of.parked) {
    return `Every event was read; ${count(of.parked)} of them ${of.parked === 1 ? "is" : "are"} parked, and readers do not see ${of.parked === 1 ? "it" : "them"}.`;
  }
  if (!of.lag_events) return "Readers see every event of the stream.";
  return `Readers do not see the last ${plural(of.lag_events, "event")} yet; the oldest waits ${duration(of.lag_s)}.`;
}

const lagTone = (of) => (of.lag_s > 60 ? "tone-bad" : of.lag_s > 5 ? "tone-warn" : "");

/** The applied share of the stream as a bar. */
function Track({ of }) {
  const [applied, stream] = [Number(of.position), Number(of.stream_position ?? 0)];
  if (!stream) return null;
  return html`<progress class="track" value=${Math.min(applied, stream)} max=${stream} aria-label="Applied share of the stream"></progress>`;
}

function Trend({ of, samples }) {
  if (of.lag_events === undefined || samples.length < 2) return null;
  const since = new Date(of.at).getTime() - TREND_S * 1000;
  const before = samples.findLast((sample) => new Date(sample.at).getTime() <= since)?.lag_events ?? samples[0].lag_events;
  if (before === undefined) return null;
  const change = of.lag_events - before;
  if (Math.abs(change) < Math.max(TREND_EVENTS, before * TREND_SHARE)) return html`<p class="trend">steady</p>`;
  return change > 0
    ? html`<p class="trend tone-warn">▲ ${count(change)} in a minute</p>`
    : html`<p class="trend tone-ok">▼ ${count(-change)} in a minute</p>`;
}

function Figures({ of }) {
  const reads = of.reads ?? {};
  const slow = (ms) => (ms === undefined || ms === null ? "–" : `${decimal(ms)} ms`);
  return html`<ul class="figures">
    <${Figure} name="Applied" value=${decimal(of.events_per_s)} unit="events/s" />
    <${Figure} name="Parked" value=${count(of.parked)} unit=${of.parked === 1 ? "event" : "events"} to=${href("parked")} tone=${of.parked > 0 ? "warn" : ""} />
    <${Figure} name="Fan-outs" value=${count(of.fan_outs)} unit="pending" note="Answers are exact meanwhile." />
    <${Figure} name="Reads" value=${decimal(reads.per_s)} unit="per second" />
    <${Figure} name="Read time" value=${slow(reads.p50_ms)} unit=${`p99 ${slow(reads.p99_ms)}`} />
    <${Figure} name="From memory" value=${percent(reads.hit_ratio)} unit="of reads" />
  </ul>`;
}

function Figure({ name, value, unit, to, tone = "", note }) {
  const text = html`<span class="label">${name}</span>
    <span class=${`figure-value ${tone && `tone-${tone}`}`}>${value}</span>
    <span class="figure-unit">${unit}</span>`;
  return html`<li class="figure" title=${note}>${to ? html`<a href=${to}>${text}</a>` : text}</li>`;
}

function Hour({ hour, samples }) {
  const now = useNow();
  const runner = html`<span class="fine">${samples.length > 0 ? `last sample ${duration(Math.max(0, (now - new Date(samples.at(-1).at)) / 1000)).replace(/\.\d/, "")} ago` : ""}</span>`;
  return html`<${Panel} title="The last hour" aside=${runner}>
    <${Loaded} of=${hour} what="Reading the last hour">
      ${() =>
        samples.length > 1
          ? html`<${LastHour} samples=${samples} />`
          : html`<${Empty} title="No samples yet">The job runner (<code>membership jobs run</code>) takes one every five seconds.<//>`}
    <//>
  <//>`;
}

function Jobs({ of }) {
  if (of.length === 0) return null;
  return html`<${Panel} title="Jobs" aside=${html`<a href=${href("generations")}>Generations</a>`}>
    <ul class="plain">${of.map((job) => html`<li key=${job.job_id}><${JobLine} job=${job} /></li>`)}</ul>
  <//>`;
}
