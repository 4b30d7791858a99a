// Parked events: groups by reason, type and source, the events of a group, and one event with its error marked.
import { count, plural, words } from "../format.js";
import { useLoad, usePages } from "../load.js";
import { Heading, Moment, More, Panel } from "../parts/basic.js";
import { PlanButton } from "../parts/plan_button.js";
import { Prose, Subject } from "../parts/prose.js";
import { Sparkline } from "../parts/sparkline.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { ParkedEvent } from "./parked_event.js";

export function Parked({ id, query }) {
  return id ? html`<${ParkedEvent} position=${id} />` : html`<${Groups} query=${query} />`;
}

const FILTERS = ["reason", "type", "source"];

/** The filters that are set; an empty one means "has none". */
const selectionOf = (query) => Object.fromEntries(FILTERS.filter((name) => query[name] !== undefined).map((name) => [name, query[name]]));

const NOTHING = "∅";
/** In an address an empty value would be left out, so "has none" is written as a sign. */
const toAddress = (selection) => Object.fromEntries(Object.entries(selection).map(([name, value]) => [name, value || NOTHING]));
const fromAddress = (query) => Object.fromEntries(Object.entries(query).map(([name, value]) => [name, value === NOTHING ? "" : value]));

function withSelection(path, selection, more = {}) {
  const parameters = new URLSearchParams(selection);
  for (const [name, value] of Object.entries(more)) if (value !== undefined) parameters.set(name, value);
  return parameters.size > 0 ? `${path}?${parameters}` : path;
}

function Groups({ query }) {
  const selection = selectionOf(fromAddress(query));
  const selected = Object.keys(selection).length > 0;
  const state = useLoad(withSelection("/ops/parked/groups", selection), ["parked"]);
  const total = state.answer?.total ?? 0;
  return html`
    <${Heading} title="Parked events" about="Events that could not be applied, kept whole. All others were applied.">
      ${total > 0 && html`
        <${PlanButton} className="primary" wanted=${retry(selection, total)}>Retry ${selected ? "these" : "all"} ${count(total)} …<//>
        <${PlanButton} wanted=${discard(selection, total)}>Discard ${selected ? "these" : "all"} …<//>`}
    <//>
    ${selected && html`<${Filters} selection=${selection} />`}
    <${Loaded} of=${state} what="Counting the parked events">
      ${(answer) =>
        answer.groups.length === 0
          ? html`<${Empty} title=${selected ? "No parked event matches" : "Nothing is parked"}>
              ${selected ? html`<a href=${href("parked")}>Show all parked events</a>` : "Every event of the stream was applied, or won by a newer one."}
            <//>`
          : html`<${Panel} title=${`${plural(answer.total, "event")} in ${plural(answer.groups.length, "group")}`}>
              <${Table} caption="Parked events by reason, type and source" columns=${GROUP_COLUMNS} rows=${answer.groups} />
              ${answer.more_groups > 0 && html`<p class="fine">and ${plural(answer.more_groups, "smaller group")}, counted above</p>`}
            <//>
            <${Events} selection=${selection} />`}
    <//>
  `;
}

export const retry = (parameters, total) => ({
  title: total === 1 ? "Retry one parked event" : `Retry ${plural(total, "parked event")}`,
  verb: "Retry",
  action: "parked_retry",
  parameters,
  running: "Applying them through this release’s code.",
});

export const discard = (parameters, total) => ({
  title: total === 1 ? "Discard one parked event" : `Discard ${plural(total, "parked event")}`,
  verb: "Discard",
  action: "parked_discard",
  parameters,
  danger: true,
});

function Filters({ selection }) {
  return html`<p class="filters">
    ${Object.entries(selection).map(([name, value]) => {
      const { [name]: _, ...rest } = selection;
      return html`<a key=${name} class="chip chip-removable" href=${href("parked", null, toAddress(rest))} aria-label=${`Remove the filter ${name} ${value || "none"}`}>
        ${name} <code>${value || "none"}</code> <span aria-hidden="true">✕</span>
      </a>`;
    })}
  </p>`;
}

const groupOf = (group) => ({ reason: group.reason, type: group.type ?? "", source: group.source ?? "" });

const none = html`<span class="unknown">none</span>`;

const GROUP_COLUMNS = [
  { label: "Reason", short: true, cell: (group) => html`<a href=${href("parked", null, toAddress(groupOf(group)))}>${words(group.reason)}</a>` },
  { label: "Type", cell: (group) => (group.type ? html`<code>${group.type}</code>` : none) },
  { label: "Source", cell: (group) => (group.source ? html`<code>${group.source}</code>` : none) },
  { label: "Events", numeric: true, cell: (group) => count(group.count) },
  { label: "Last 24 hours", cell: (group) => html`<${Sparkline} counts=${group.by_hour ?? []} label="Parked" />` },
  { label: "First", cell: (group) => html`<${Moment} at=${group.first_seen_at} />` },
  { label: "Last", cell: (group) => html`<${Moment} at=${group.last_seen_at} />` },
  {
    label: "Actions",
    hidden: true,
    cell: (group) => html`<div class="actions actions-small">
      <${PlanButton} wanted=${retry(groupOf(group), group.count)}>Retry …<//>
      <${PlanButton} wanted=${discard(groupOf(group), group.count)}>Discard …<//>
    </div>`,
  },
];

function Events({ selection }) {
  const pages = usePages((before) => withSelection("/ops/parked", selection, { limit: 50, before }), (page) => page.events, ["parked"]);
  return html`<${Panel} title="Events, newest first">
    <${Loaded} of=${pages} what="Reading the events">
      ${() => html`
        <${Table} caption="Parked events, newest first" columns=${EVENT_COLUMNS} rows=${pages.rows} keyOf=${(event) => event.position} />
        <${More} of=${pages} />`}
    <//>
  <//>`;
}

const EVENT_COLUMNS = [
  { label: "Position", numeric: true, cell: (event) => html`<a class="number" href=${href("parked", event.position)}>${count(event.position)}</a>` },
  { label: "Reason", short: true, cell: (event) => words(event.reason) },
  { label: "Subject", cell: (event) => html`<${Subject} of=${event.subject} />` },
  { label: "Detail", wide: true, cell: (event) => html`<${Prose} of=${event.detail} />` },
  { label: "First seen", cell: (event) => html`<${Moment} at=${event.first_seen_at} />` },
];
