// The campaign lens: its card, its counters, its members, and a fan-out that is still being copied.
import { pathOf } from "../api.js";
import { count, isUuid, plural, words } from "../format.js";
import { useLoad, usePages } from "../load.js";
import { Facts, Heading, Id, Moment, More, Panel, Pill } from "../parts/basic.js";
import { IdForm, noId } from "../parts/id_form.js";
import { Json } from "../parts/json.js";
import { Prose } from "../parts/prose.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { html } from "../ui.js";
import { Repair } from "./customer.js";

export function CampaignLens({ id }) {
  return html`
    <${Heading} title="Campaign" about="What is known of a campaign, and who is in it." />
    <${IdForm} lens="campaign" noun="campaign" id=${id} />
    ${id === undefined
      ? html`<${Empty} title="No campaign chosen">Paste an id, or follow a link from a customer, a report or a parked event.<//>`
      : isUuid(id)
        ? html`<${Campaign} id=${id} />`
        : html`<${Empty} title="This is not an id">${noId("campaign")}<//>`}
  `;
}

function Campaign({ id }) {
  const state = useLoad(`/ops/campaigns/${id}`);
  return html`<${Loaded} of=${state} what="Reading the campaign">
    ${(campaign) =>
      campaign.known
        ? html`<${Known} id=${id} campaign=${campaign} />`
        : html`<${Empty} title="Unknown campaign">${campaign.sentence ?? "No event of this campaign has been applied."} <${Id} of=${id} whole /><//>`}
  <//>`;
}

function Known({ id, campaign }) {
  const { card, counters } = campaign;
  return html`
    <${Panel} title=${card?.name ?? "A campaign without a definition"}>
      <p class="lead-sentence"><${Prose} of=${campaign.sentence} /></p>
      <${Facts} of=${{
        Campaign: html`<${Id} of=${id} whole />`,
        Owner: campaign.owner_id && html`<${Id} of=${campaign.owner_id} whole />`,
        Status: campaign.status && html`<${Pill} tone=${campaign.status === "running" ? "ok" : "plain"}>${campaign.status}<//>`,
        Deleted: campaign.deleted ? html`<${Pill} tone="warn">deleted<//>` : "no",
        "Fan-out": campaign.fan_out && html`<span>pending; it resumes at <code>${String(campaign.fan_out.resumes_at)}</code>. Answers are exact meanwhile.</span>`,
      }} />
    <//>
    <div class="columns columns-lens">
      <div>
        <${Counters} of=${counters} />
        <${Members} id=${id} total=${campaign.members?.total} />
        <${Repair} parameters=${{ campaign_id: id }} noun="campaign" />
      </div>
      <${Panel} title="Its card" aside=${html`<span class="fine">as lists show it</span>`}>
        ${card ? html`<${Json} text=${JSON.stringify(card)} label="The campaign's card" />` : html`<${Empty} title="No definition yet">Lists leave this campaign out until its definition is applied.<//>`}
      <//>
    </div>
  `;
}

function Counters({ of }) {
  if (!of) return html`<${Panel} title="Counters"><${Empty} title="No counters yet">Lists show them as 0.<//><//>`;
  const { version, position, ...values } = of;
  const shown = Object.entries(values);
  const aside = html`<span class="fine">version ${String(version)}${position === undefined ? "" : ` · event ${count(position)}`}</span>`;
  return html`<${Panel} title="Counters" aside=${aside}>
    <ul class="counters">${shown.map(([name, value]) => html`<li key=${name}><span class="label">${words(name).replace(/^contacts /, "")}</span><span class="number">${typeof value === "number" ? value.toLocaleString("en") : String(value)}</span></li>`)}</ul>
  <//>`;
}

function Members({ id, total }) {
  const pages = usePages(
    (after) => pathOf(`/ops/campaigns/${id}/members`, { limit: 50, after }),
    (page) => page.members,
  );
  return html`<${Panel} title=${total === undefined ? "Members" : plural(total, "member")} aside=${html`<span class="fine">by id</span>`}>
    <${Loaded} of=${pages} what="Reading the members">
      ${() =>
        pages.rows.length === 0
          ? html`<${Empty} title="Nobody was ever enrolled" />`
          : html`<${Table} caption="Members by id" columns=${COLUMNS} rows=${pages.rows} keyOf=${(member) => member.customer_id} /><${More} of=${pages} label="Show more" />`}
    <//>
  <//>`;
}

const COLUMNS = [
  { label: "Customer", cell: (member) => html`<${Id} of=${member.customer_id} lens="customer" whole />` },
  { label: "Enrolled", cell: (member) => html`<${Moment} at=${member.enrolled_at} />` },
  { label: "In it", cell: (member) => (member.present ? html`<${Pill} tone="ok">yes<//>` : html`<${Pill}>removed<//>`) },
];
