// The events of one membership in stream order, each with its outcome.
import { pathOf } from "../api.js";
import { count, words } from "../format.js";
import { usePages } from "../load.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { Moment, More, Pill } from "./basic.js";
import { Prose } from "./prose.js";
import { Loaded } from "./states.js";

const TONES = { applied: "ok", superseded: "plain", duplicate: "plain", parked: "warn", discarded: "plain" };

export function Timeline({ customerId, campaignId }) {
  const pages = usePages(
    (cursor) => pathOf(`/customers/${customerId}/campaigns/${campaignId}/history`, { limit: 50, cursor }),
    (page) => page.events,
  );
  return html`<div class="timeline-box">
    <${Loaded} of=${pages} what="Reading the events from the stream">
      ${(history) => html`
        <p class="timeline-verdict"><${Prose} of=${history.detail} /></p>
        <ol class="timeline">${pages.rows.map((event) => html`<${Event} key=${event.position} event=${event} />`)}</ol>
        <${More} of=${{ ...pages, hasMore: Boolean(history.meta?.next_cursor) && pages.hasMore }} label="Show later events" />`}
    <//>
  </div>`;
}

function Event({ event }) {
  const parked = event.outcome === "parked";
  return html`<li class=${`event event-${event.outcome}`}>
    <p class="event-head">
      <span class="number event-position">${parked ? html`<a href=${href("parked", event.position)}>${count(event.position)}</a>` : count(event.position)}</span>
      <code>${event.type ?? "unreadable"}</code>
      <${Pill} tone=${TONES[event.outcome]}>${words(event.outcome)}<//>
      ${event.superseded_by !== undefined &&
      html`<span class="fine">${event.outcome === "applied" ? "replaced later by" : "lost to"} ${count(event.superseded_by)}</span>`}
    </p>
    ${event.detail && html`<p><${Prose} of=${event.detail} /></p>`}
    <p class="fine">
      <${Moment} at=${event.time} />${event.source && html` · ${event.source}`}${event.version !== undefined && html` · version ${String(event.version)}`}
    </p>
  </li>`;
}
