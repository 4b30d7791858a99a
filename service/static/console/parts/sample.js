// A few of the things that a plan acts on, as a table of their fields.
import { capitalised, count, words } from "../format.js";
import { href } from "../router.js";
import { html } from "../ui.js";
import { Prose, Subject } from "./prose.js";
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

const FIRST = ["position", "outcome", "reason", "detail"];
/** Fields that stand first, in this order; the API returns the fields of a sample in no order. */
const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);

/** Without what a retry would find now, where that is the reason that is shown anyway. */
function withoutRepetition({ now, ...row }) {
  return now === undefined || (now?.reason === row.reason && now?.detail === row.detail) ? row : { ...row, now };
}

function Plain({ rows: all }) {
  const rows = all.map(withoutRepetition);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))].sort((one, other) => rank(one) - rank(other));
  const columns = names.map((name) => ({
    label: capitalised(words(name)),
    numeric: rows.every((row) => typeof row[name] === "number"),
    cell: (row) => html`<${Value} name=${name} of=${row[name]} />`,
  }));
  return html`<${Table} caption="A sample" columns=${columns} rows=${rows} />`;
}

const LENSES = { customer_id: "customer", campaign_id: "campaign" };

function Value({ name, of }) {
  if (of === undefined || of === null) return html`<span class="unknown">–</span>`;
  if (name === "position") return html`<a href=${href("parked", of)}><span class="number">${count(of)}</span></a>`;
  if (name === "outcome" || name === "reason") return words(of);
  if (name === "detail") return html`<${Prose} of=${of} />`;
  if (name === "now") return html`<${Prose} of=${`${words(of.reason ?? "")}: ${of.detail ?? ""}`} />`;
  if (name === "subject") return html`<${Subject} of=${of} />`;
  if (LENSES[name]) return html`<a href=${href(LENSES[name], of)}><code class="id">${of}</code></a>`;
  return typeof of === "object" ? html`<code>${JSON.stringify(of)}</code>` : String(of);
}
