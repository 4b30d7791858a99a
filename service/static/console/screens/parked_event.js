// One parked event: why it could not be applied, what this release would do with it now, and its body.
import { count, words } from "../format.js";
import { useLoad } from "../load.js";
import { Facts, Heading, Moment, Panel, Pill } from "../parts/basic.js";
import { Json } from "../parts/json.js";
import { PlanButton } from "../parts/plan_button.js";
import { Prose } from "../parts/prose.js";
import { Loaded } from "../parts/states.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { discard, retry } from "./parked.js";

export function ParkedEvent({ position }) {
  const state = useLoad(`/ops/parked/${encodeURIComponent(position)}`, ["parked"]);
  const selection = { positions: [Number(position)] };
  return html`
    <p class="crumbs"><a href=${href("parked")}>Parked events</a></p>
    <${Heading} title=${`Event ${/^\d+$/.test(position) ? count(position) : position}`}>
      ${state.answer && html`
        <${PlanButton} className="primary" wanted=${retry(selection, 1)}>Retry …<//>
        <${PlanButton} wanted=${discard(selection, 1)}>Discard …<//>`}
    <//>
    <${Loaded} of=${state} what="Reading the event">${(event) => html`<${Event} event=${event} />`}<//>
  `;
}

function Event({ event }) {
  return html`
    <${Verdict} event=${event} />
    <div class="columns columns-event">
      <${Panel} title="Body" aside=${html`<span class="fine">${count(event.body_bytes)} bytes</span>`}>
        <${Json} text=${event.body} errorPath=${event.error_path} errorByte=${event.error_byte} label="Body of the event" />
      <//>
      <${Panel} title="Envelope">
        <${Facts} of=${{
          Reason: words(event.reason),
          Type: event.type ? html`<code>${event.type}</code>` : undefined,
          Source: event.source ? html`<code>${event.source}</code>` : undefined,
          Subject: html`<code class="breakable">${event.subject}</code>`,
          "First seen": html`<${Moment} at=${event.first_seen_at} />`,
          "Error at": event.error_path?.length > 0 ? html`<code>${event.error_path.join(" › ")}</code>` : undefined,
          Headers: headers(event.headers),
          About: about(event.subject),
        }} />
      <//>
    </div>
  `;
}

const RETRIALS = {
  would_apply: { tone: "ok", name: "would apply", sentence: "This release can apply it." },
  still_parked: { tone: "warn", name: "still parked" },
  undecided: { tone: "plain", name: "only a retry shows", sentence: "The event is valid, but the tables refused its values when it came." },
};

function Verdict({ event }) {
  const { tone, name, sentence } = RETRIALS[event.now?.outcome] ?? RETRIALS.still_parked;
  return html`<section class="verdict" aria-label="Verdict">
    <p><span class="label">When it came</span> <${Prose} of=${event.detail} /></p>
    ${event.now && html`<p><span class="label">If you retry</span>
      <${Pill} tone=${tone}>${name}<//>${" "}
      <${Prose} of=${sentence ?? event.now.detail ?? words(event.now.reason)} />
    </p>`}
  </section>`;
}

function headers(of) {
  const entries = Array.isArray(of) ? of : Object.entries(of ?? {});
  if (entries.length === 0) return "none";
  return entries.map(([name, value]) => html`<div key=${name}><code>${name}: ${String(value)}</code></div>`);
}

/** Links to the lenses of the ids in the subject. */
function about(subject) {
  const [, kind, first, second] = subject.split(".");
  const customer = kind === "customer" || kind === "target" ? first : null;
  const campaign = kind === "target" ? second : kind === "campaign" || kind === "counters" ? first : null;
  if (!customer && !campaign) return undefined;
  return html`<span class="links">
    ${customer && html`<a href=${href("customer", customer)}>Customer</a>`}
    ${campaign && html`<a href=${href("campaign", campaign)}>Campaign</a>`}
  </span>`;
}
