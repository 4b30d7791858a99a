// Small pieces that every screen uses: times, ids, pills, headings, panels.
import { ago, moment, shortId } from "../format.js";
import { href } from "../router.js";
import { html, useEffect, useState } from "../ui.js";

const TICK_MS = 1_000;

/** The time now, drawn again every second. */
export function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/** A time in UTC; hovering shows how long ago. */
export function Moment({ at }) {
  if (!at) return html`<span class="unknown">–</span>`;
  return html`<time datetime=${at} title=${`${ago(at)} · UTC`}>${moment(at)}</time>`;
}

/** An id, shortened unless `whole`, linked to its lens. */
export function Id({ of, lens, whole = false }) {
  if (!of) return html`<span class="unknown">–</span>`;
  const text = html`<code class="id" title=${of}>${whole ? of : shortId(of)}</code>`;
  return lens ? html`<a href=${href(lens, of)}>${text}</a>` : text;
}

/** A short state; `tone` is ok, warn, bad, work or plain. */
export const Pill = ({ tone = "plain", children }) => html`<span class=${`pill pill-${tone}`}>${children}</span>`;

/** The heading of a screen, focused when the screen is opened, with its actions beside it. */
export function Heading({ title, about, children }) {
  return html`<header class="heading">
    <div>
      <h1 tabindex="-1">${title}</h1>
      ${about && html`<p class="about">${about}</p>`}
    </div>
    ${children && html`<div class="actions">${children}</div>`}
  </header>`;
}

export function Panel({ title, aside, children, className = "" }) {
  return html`<section class=${`panel ${className}`} aria-label=${title}>
    ${title && html`<div class="panel-head"><h2>${title}</h2>${aside && html`<div class="aside">${aside}</div>`}</div>`}
    ${children}
  </section>`;
}

/** A list of names and values; `wide` puts them beside each other where there is room. */
export function Facts({ of, wide = false }) {
  const present = Object.entries(of).filter(([, value]) => value !== undefined && value !== null);
  return html`<dl class=${wide ? "facts facts-wide" : "facts"}>
    ${present.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

/** The button under a list with cursors. */
export function More({ of, label = "Show older" }) {
  return html`
    ${of.moreProblem && html`<p class="inline-problem" role="alert">${of.moreProblem.sentence}</p>`}
    ${of.hasMore &&
    html`<p class="more"><button type="button" disabled=${of.moreLoading} onClick=${of.more}>
      ${of.moreLoading ? "Reading …" : label}
    </button></p>`}
  `;
}
