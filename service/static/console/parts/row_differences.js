// Rows that differ, one block each: the key, linked to its lens, and each column as it is and as it should be.
import { href } from "../router.js";
import { html } from "../ui.js";

export const isRowDifference = (row) => "live" in row || "new" in row;

export function RowDifferences({ rows }) {
  return html`<ul class="differences">${rows.map((row, index) => html`<${Difference} key=${index} row=${row} />`)}</ul>`;
}

function Difference({ row }) {
  const [live, expected] = [row.live, row.new];
  const columns = row.column ? [row.column] : differingColumns(live, expected);
  const at = (side, column) => (row.column || side === null || typeof side !== "object" ? side : side[column]);
  return html`<li class="difference">
    <p class="difference-key">${row.table && html`<strong>${row.table}</strong>`} <${Key} of=${row.key ?? {}} /></p>
    <dl>
      ${columns.map(
        (column) => html`<div key=${column}>
          <dt>${column}</dt>
          <dd class="removed"><span class="visually-hidden">now </span>${shown(at(live, column))}</dd>
          <dd class="added"><span class="visually-hidden">expected </span>${shown(at(expected, column))}</dd>
        </div>`,
      )}
    </dl>
  </li>`;
}

function differingColumns(live, expected) {
  if (!isObject(live) || !isObject(expected)) return ["row"];
  const names = [...new Set([...Object.keys(live), ...Object.keys(expected)])];
  return names.filter((name) => JSON.stringify(live[name]) !== JSON.stringify(expected[name]));
}

const isObject = (value) => value !== null && typeof value === "object";

function shown(value) {
  if (value === undefined || value === null) return html`<em>none</em>`;
  return html`<code>${typeof value === "object" ? JSON.stringify(value) : String(value)}</code>`;
}

const LENSES = { customer_id: "customer", campaign_id: "campaign" };

function Key({ of }) {
  return Object.entries(of).map(([name, value]) => {
    const text = html`<code class="id">${String(value)}</code>`;
    return html`<span key=${name} class="key-part">${name.replace("_id", "")} ${LENSES[name] ? html`<a href=${href(LENSES[name], value)}>${text}</a>` : text}</span>`;
  });
}
