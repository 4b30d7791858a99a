// A few of the things that a plan acts on, as a table of their fields.
import { capitalised, count, words } from "../format.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { Subject } from "./prose.js";
import { RowDifferences, isRowDifference } from "./row_differences.js";
import { Table } from "./table.js";

export function Sample({ of }) {
  const rows = (of.sample ?? []).filter((row) => row && typeof row === "object");
  if (rows.length === 0) return null;
  const rest = Number(of.count) - rows.length;
  return html`<div class="sample" tabindex="0" role="group" aria-label="A sample">
    ${isRowDifference(rows[0]) ? html`<${RowDifferences} rows=${rows} />` : html`<${Plain} rows=${rows} />`}
    ${rest > 0 && html`<p class="fine">and ${count(rest)} more</p>`}
  </div>`;
}

function Plain({ rows }) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const columns = names.map((name) => ({
    label: capitalised(words(name)),
    numeric: rows.every((row) => typeof row[name] === "number"),
    cell: (row) => html`<${Value} name=${name} of=${row[name]} />`,
  }));
  return html`<${Table} caption="A sample" columns=${columns} rows=${rows} />`;
}

const LENSES = { customer_id: "customer", campaign_id: "campaign", position: "parked" };

function Value({ name, of }) {
  if (of === undefined || of === null) return html`<span class="unknown">–</span>`;
  if (name === "position") return html`<span class="number">${count(of)}</span>`;
  if (name === "subject") return html`<${Subject} of=${of} />`;
  if (LENSES[name]) return html`<a href=${href(LENSES[name], of)}><code class="id">${of}</code></a>`;
  return typeof of === "object" ? html`<code>${JSON.stringify(of)}</code>` : String(of);
}
