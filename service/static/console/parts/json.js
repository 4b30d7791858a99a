// Shows JSON, or text that is none, with the place of an error marked.
import { html } from "../ui.js";
import { linesOf } from "./json_text.js";

/** `text` is shown by lines if it is JSON; `errorPath` marks the deepest line on the way to it. */
export function Json({ text, errorPath, errorByte, label }) {
  const lines = linesOf(text);
  if (!lines) return html`<pre class="code" tabindex="0" role="group" aria-label=${label}><${NotJson} text=${text} errorByte=${errorByte} /></pre>`;
  const marked = errorPath ? markedLine(lines, errorPath) : -1;
  return html`<pre class="code" tabindex="0" role="group" aria-label=${label}><code>${lines.map(
    (line, index) =>
      html`<span key=${index} class=${index === marked ? "line line-marked" : "line"}>${"  ".repeat(line.indent)}${line.text}${index === marked && html`<em> ← here</em>`}${"\n"}</span>`,
  )}</code></pre>`;
}

/** Text that is no JSON, with the place marked where it ceases to be. */
function NotJson({ text, errorByte }) {
  if (errorByte === undefined) return text;
  const before = new TextDecoder().decode(new TextEncoder().encode(text).slice(0, errorByte));
  const at = before.length;
  return html`${before}<mark>${text.slice(at, at + 1) || " "}</mark><em class="here"> ← no JSON from here </em>${text.slice(at + 1)}`;
}

/** The line of the deepest value on the path: of a field that is missing, the object that lacks it. */
export function markedLine(lines, path) {
  let best = 0;
  lines.forEach((line, index) => {
    if (line.path === null || line.path.length > path.length) return;
    const onPath = line.path.every((step, depth) => String(step) === String(path[depth]));
    if (onPath && line.path.length >= (lines[best].path?.length ?? 0)) best = index;
  });
  return best;
}
