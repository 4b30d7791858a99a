// Sentences of the API with their `code` set as code, and subjects with shortened ids.
import { html } from "../ui.js";

/** A sentence whose parts in backticks are shown as code. */
export function Prose({ of }) {
  if (of === undefined || of === null) return null;
  return String(of)
    .split("`")
    .map((part, index) => (index % 2 === 1 ? html`<code key=${index}>${part}</code>` : part));
}

const ID = /([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi;

/** A subject with each id cut to its first eight digits, broken after its dots; hovering shows all of it. */
export function Subject({ of }) {
  const [first, ...rest] = String(of).replace(ID, "$1…").split(".");
  return html`<code class="breakable" title=${of}>${first}${rest.map((word) => html`.<wbr />${word}`)}</code>`;
}
