// What a comparison found: differing rows by table and column, with samples linked to their lenses.
import { count, plural } from "../format.js";
import { html } from "../ui.js";
import { Prose } from "./prose.js";
import { RowDifferences } from "./row_differences.js";
import { Table } from "./table.js";

export function GateReport({ report }) {
  const tables = (report.tables ?? []).filter((table) => total(table) > 0);
  return html`<section class="report" aria-label="What the comparison found">
    <p class="report-verdict">
      <span class=${`number ${report.differing_rows > 0 ? "tone-warn" : "tone-ok"}`}>${count(report.differing_rows)}</span>
      ${report.differing_rows === 1 ? " row differs" : " rows differ"}
    </p>
    ${(report.sentences ?? []).map((sentence) => html`<p key=${sentence}><${Prose} of=${sentence} /></p>`)}
    ${tables.length > 0 && html`<${Table} caption="Differing rows by table" columns=${COLUMNS} rows=${tables} keyOf=${(table) => table.table} />`}
    ${tables.filter((table) => table.samples?.length > 0).map((table) => html`<${Samples} key=${table.table} of=${table} />`)}
  </section>`;
}

const total = (table) => (table.differing ?? 0) + (table.only_live ?? 0) + (table.only_new ?? 0);

const COLUMNS = [
  { label: "Table", cell: (table) => html`<code>${table.table}</code>` },
  { label: "Differ", numeric: true, cell: (table) => count(table.differing) },
  { label: "Only live", numeric: true, cell: (table) => count(table.only_live) },
  { label: "Only new", numeric: true, cell: (table) => count(table.only_new) },
  {
    label: "By column",
    wide: true,
    cell: (table) => html`<span class="chips">${(table.columns ?? []).map((column) => html`<span class="chip" key=${column.column}><code>${column.column}</code> ${count(column.rows)}</span>`)}</span>`,
  },
];

function Samples({ of }) {
  return html`<details class="samples">
    <summary>${plural(of.samples.length, "row")} of <code>${of.table}</code> as a sample</summary>
    <p class="fine legend"><span class="removed">live</span> <span class="added">new</span></p>
    <${RowDifferences} rows=${of.samples} />
  </details>`;
}
