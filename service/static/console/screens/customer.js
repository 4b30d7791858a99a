// The customer lens: what the API answers beside why, for each membership, and the events behind it.
import { count, isUuid, plural } from "../format.js";
import { usePages } from "../load.js";
import { pathOf } from "../api.js";
import { Facts, Heading, Id, More, Panel, Pill } from "../parts/basic.js";
import { IdForm, noId } from "../parts/id_form.js";
import { Json } from "../parts/json.js";
import { PlanButton } from "../parts/plan_button.js";
import { PlanView } from "../parts/plan_view.js";
import { Prose } from "../parts/prose.js";
import { Empty, Loaded } from "../parts/states.js";
import { Timeline } from "../parts/timeline.js";
import { html, useState } from "../ui.js";

export function CustomerLens({ id }) {
  const valid = id !== undefined && isUuid(id);
  return html`
    <${Heading} title="Customer" about="What the API answers for a customer, and why.">
      ${valid && html`<${PlanButton} wanted=${erase(id)}>Erase …<//>`}
    <//>
    <${IdForm} lens="customer" noun="customer" id=${id} />
    ${id === undefined
      ? html`<${Empty} title="No customer chosen">Paste an id, or follow a link from a parked event, a report or a campaign.<//>`
      : valid
        ? html`<${Customer} id=${id} />`
        : html`<${Empty} title="This is not an id">${noId("customer")}<//>`}
  `;
}

const erase = (id) => ({
  title: "Erase this customer",
  verb: "Erase for ever",
  action: "erase",
  parameters: { customer_id: id },
  danger: true,
  running: "Erasing messages and rows.",
});

function Customer({ id }) {
  const pages = usePages(
    (after) => pathOf(`/ops/customers/${id}`, { after }),
    (page) => page.memberships,
    ["audit", "plans"], // a repair or an erasure has ended
  );
  return html`<${Loaded} of=${pages} what="Reading the customer">
    ${(answer) =>
      answer.known
        ? html`<${Known} id=${id} answer=${answer} pages=${pages} />`
        : html`<${Empty} title="Unknown customer">No event of this customer, and no enrolment, has been applied. <${Id} of=${id} whole /><//>`}
  <//>`;
}

function Known({ id, answer, pages }) {
  return html`
    <${Panel} title="Who">
      <${Facts} wide of=${{
        Customer: html`<${Id} of=${id} whole />`,
        Owner: answer.owner_id ? html`<${Id} of=${answer.owner_id} whole />` : "none: known from enrolments only, so only admins see it",
        State: answer.deleted ? html`<${Pill} tone="warn">deleted<//>` : html`<${Pill} tone="ok">exists<//>`,
      }} />
    <//>
    <div class="columns columns-lens">
      <div>
        <${Panel} title="Why" aside=${html`<span class="fine">${plural(pages.rows.length, "membership")}${pages.hasMore ? " so far" : ""}</span>`}>
          ${pages.rows.length === 0
            ? html`<${Empty} title="Never enrolled">No enrolment of this customer has been applied.<//>`
            : html`<ul class="memberships">${pages.rows.map((row) => html`<${Membership} key=${row.campaign_id} customerId=${id} row=${row} />`)}</ul>`}
          <${More} of=${pages} label="Show more" />
        <//>
        <${Repair} parameters=${{ customer_id: id }} noun="customer" />
      </div>
      <${Answer} of=${answer.answer} hidden=${new Set(pages.rows.filter((row) => !row.visible).map((row) => row.campaign_id))} />
    </div>
  `;
}

function Membership({ customerId, row }) {
  const [open, setOpen] = useState(false);
  return html`<li class="membership">
    <p class="membership-head">
      <${Pill} tone=${row.visible ? "ok" : "plain"}>${row.visible ? "listed" : "not listed"}<//>
      <span class="membership-name">${row.campaign_name ?? "A campaign without a definition"}</span>
      <${Id} of=${row.campaign_id} lens="campaign" />
    </p>
    <p class="membership-sentence"><${Prose} of=${row.sentence} /></p>
    <button type="button" class="quiet" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "Hide" : "Show"} its events</button>
    ${open && html`<${Timeline} customerId=${customerId} campaignId=${row.campaign_id} />`}
  </li>`;
}

/** The answer of the API, rendered and raw. */
function Answer({ of, hidden }) {
  const [raw, setRaw] = useState(false);
  const total = of?.meta?.total;
  const tabs = html`<div class="switch" role="group" aria-label="How the answer is shown">
    <button type="button" aria-pressed=${!raw} onClick=${() => setRaw(false)}>Rendered</button>
    <button type="button" aria-pressed=${raw} onClick=${() => setRaw(true)}>Raw</button>
  </div>`;
  return html`<${Panel} title="What the API answers" aside=${tabs}>
    ${of === undefined || of === null
      ? html`<${Empty} title="404 customer_not_found">The API answers that there is no such customer.<//>`
      : raw
        ? html`<${Json} text=${JSON.stringify(of)} label="The answer as JSON" />`
        : html`<p class="fine">${plural(total ?? of.data.length, "campaign")} for an admin, deleted ones included${total > of.data.length ? `; the first ${count(of.data.length)}` : ""}</p>
            ${of.data.length === 0 ? html`<${Empty} title="An empty list" />` : html`<ul class="cards">${of.data.map((item) => html`<${Card} key=${item.id} item=${item} hidden=${hidden.has(item.id)} />`)}</ul>`}`}
  <//>`;
}

const STATUS_TONES = { running: "ok", paused: "warn", draft: "plain", done: "work" };

function Card({ item, hidden }) {
  return html`<li class=${hidden ? "card card-deleted" : "card"}>
    <p class="card-head"><span class="card-name">${item.name}</span> <${Pill} tone=${STATUS_TONES[item.status]}>${item.status}<//></p>
    <p class="fine">${hidden ? "only in answers with include_deleted · " : ""}${count(item.contacts_contacted)} of ${plural(item.contacts_total, "contact")} reached</p>
  </li>`;
}

/** A repair's dry run, in place. */
export function Repair({ parameters, noun }) {
  const [open, setOpen] = useState(false);
  const wanted = {
    title: `Repair this ${noun}`,
    verb: "Write these rows",
    action: "repair",
    parameters,
    needsCount: true,
    running: "Writing the rows.",
  };
  return html`<${Panel} title="Rows against the stream">
    ${open
      ? html`<${PlanView} wanted=${wanted} onClose=${() => setOpen(false)} />`
      : html`<p>Derive the rows of this ${noun} from the stream again, and show what would change. Nothing is written before you say so.</p>
          <p><button type="button" onClick=${() => setOpen(true)}>Compare with the stream</button></p>`}
  <//>`;
}
