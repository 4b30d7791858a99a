// A table that becomes a list of cards on a narrow screen; roles are stated, because that changes how it is displayed.
import { html } from "../ui.js";

/** `columns`: `{label, cell(row), numeric?, wide?}`; `caption` names the table for screen readers. */
export function Table({ caption, columns, rows, keyOf }) {
  return html`<table class="rows" role="table" aria-label=${caption}>
    <thead role="rowgroup">
      <tr role="row">
        ${columns.map(
          (column) =>
            html`<th key=${column.label} role="columnheader" scope="col" class=${column.numeric ? "numeric" : null}>
              ${column.hidden ? html`<span class="visually-hidden">${column.label}</span>` : column.label}
            </th>`,
        )}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${rows.map((row, index) => html`<${Row} key=${keyOf ? keyOf(row) : index} row=${row} columns=${columns} />`)}
    </tbody>
  </table>`;
}

function Row({ row, columns }) {
  return html`<tr role="row">
    ${columns.map(
      (column) =>
        html`<td
          key=${column.label}
          role="cell"
          data-label=${column.hidden ? null : column.label}
          class=${[column.numeric && "numeric", column.wide && "wide", column.short && "short"].filter(Boolean).join(" ") || null}
        >
          <div>${column.cell(row)}</div>
        </td>`,
    )}
  </tr>`;
}
