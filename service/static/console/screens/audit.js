// The audit: every change by an operator, newest first.
import { pathOf } from "../api.js";
import { count, words } from "../format.js";
import { usePages } from "../load.js";
import { Heading, Moment, More, Panel } from "../parts/basic.js";
import { Prose } from "../parts/prose.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { href } from "../router.js";
import { html } from "../ui.js";

export function Audit({ query }) {
  const pages = usePages(
    (before) => pathOf("/ops/audit", { action: query.action, limit: 50, before }),
    (page) => page.entries,
    ["audit"],
  );
  return html`
    <${Heading} title="Audit" about="Who changed what, when and why. Nothing here can be changed." />
    ${query.action && html`<p class="filters"><a class="chip chip-removable" href=${href("audit")} aria-label="Remove the filter">action <code>${query.action}</code> <span aria-hidden="true">✕</span></a></p>`}
    <${Panel} title="Entries, newest first">
      <${Loaded} of=${pages} what="Reading the audit">
        ${() =>
          pages.rows.length === 0
            ? html`<${Empty} title=${query.action ? "No such entry" : "No operator has changed anything yet"} />`
            : html`<${Table} caption="Audit, newest first" columns=${COLUMNS} rows=${pages.rows} keyOf=${(entry) => entry.audit_id} /><${More} of=${pages} />`}
      <//>
    <//>
  `;
}

const COLUMNS = [
  { label: "At", cell: (entry) => html`<${Moment} at=${entry.at} />` },
  { label: "By", cell: (entry) => html`<span class="breakable">${entry.actor}</span>` },
  { label: "What", cell: (entry) => html`<a href=${href("audit", null, { action: entry.action })} title="Only these">${words(entry.action)}</a>` },
  { label: "Position", numeric: true, cell: (entry) => (entry.position === undefined ? "–" : count(entry.position)) },
  { label: "Detail", wide: true, cell: (entry) => html`<${Prose} of=${entry.detail} />` },
];
