// The event stream: its settings against what is wanted, the last event of each source, and its tail.
import { pathOf } from "../api.js";
import { ago, count, duration, words } from "../format.js";
import { live } from "../live.js";
import { useLoad, usePages } from "../load.js";
import { Facts, Heading, Moment, More, Panel, Pill, useNow } from "../parts/basic.js";
import { Json } from "../parts/json.js";
import { Prose, Subject } from "../parts/prose.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { go } from "../router.js";
import { useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";

const EVERYTHING = "membership.>";

export function Stream({ query }) {
  const state = useLoad("/ops/stream");
  return html`
    <${Heading} title="Stream" about="The events as the producers published them: the truth that every row is derived from." />
    <${Loaded} of=${state} what="Reading the stream's state">
      ${(stream) => html`<div class="columns columns-stream">
        <${State} stream=${stream} />
        <${Settings} settings=${stream.settings ?? []} />
        <${Sources} sources=${stream.sources ?? []} />
      </div>`}
    <//>
    <${Tail} subject=${query.subject ?? EVERYTHING} />
  `;
}

function State({ stream }) {
  const now = useNow();
  return html`<${Panel} title=${stream.name} aside=${html`<span class="fine">read ${ago(stream.at, now)}</span>`}>
    <${Facts} of=${{
      Messages: count(stream.messages),
      First: count(stream.first_position),
      Last: count(stream.last_position),
      Size: stream.bytes === undefined ? undefined : `${(stream.bytes / 1e6).toFixed(1)} MB`,
    }} />
  <//>`;
}

function Settings({ settings }) {
  const wrong = settings.filter((setting) => !setting.ok);
  const verdict = wrong.length === 0 ? html`<${Pill} tone="ok">as wanted<//>` : html`<${Pill} tone="bad">${wrong.length} wrong<//>`;
  return html`<${Panel} title="Settings" aside=${verdict}>
    ${wrong.length === 0 && html`<p>No setting lets an event be lost, changed or stored twice.</p>`}
    ${wrong.map((setting) => html`<p key=${setting.name} class="inline-problem"><${Prose} of=${setting.sentence ?? `${words(setting.name)} is ${setting.found}.`} /></p>`)}
    <details class="all-settings" open=${wrong.length > 0}>
      <summary>All ${settings.length} settings</summary>
      <${Table} caption="Settings of the stream" columns=${SETTING_COLUMNS} rows=${settings} keyOf=${(setting) => setting.name} />
    </details>
  <//>`;
}

/** Settings that JetStream counts in nanoseconds. */
const DURATIONS = new Set(["duplicate_window", "max_age"]);

function shown({ name }, value) {
  const text = DURATIONS.has(name) && value > 0 ? duration(value / 1e9) : plain(value);
  return html`<code class="breakable">${text}</code>`;
}

const plain = (value) => (Array.isArray(value) ? value.join(", ") : value === null ? "none" : String(value));

const SETTING_COLUMNS = [
  { label: "Setting", cell: (setting) => words(setting.name) },
  { label: "Wanted", cell: (setting) => shown(setting, setting.wanted) },
  { label: "Found", cell: (setting) => shown(setting, setting.found) },
  { label: "Verdict", hidden: true, cell: (setting) => (setting.ok ? html`<span class="tone-ok">✓<span class="visually-hidden"> as wanted</span></span>` : html`<${Pill} tone="bad">wrong<//>`) },
];

function Sources({ sources }) {
  return html`<${Panel} title="Last event by source">
    ${sources.length === 0
      ? html`<${Empty} title="No source is known yet" />`
      : html`<${Table} caption="Last event by source" columns=${SOURCE_COLUMNS} rows=${sources} keyOf=${(source) => source.source} />`}
  <//>`;
}

const SOURCE_COLUMNS = [
  { label: "Source", cell: (source) => html`<code class="breakable">${source.source}</code>` },
  { label: "Position", numeric: true, cell: (source) => count(source.last_position) },
  { label: "At", cell: (source) => html`<${Moment} at=${source.last_at} />` },
];

function Tail({ subject }) {
  const [text, setText] = useState(subject);
  useEffect(() => setText(subject), [subject]);
  const pages = usePages(
    (before) => pathOf("/ops/stream/events", { subject, limit: 25, before }),
    (page) => page.events,
  );
  const submit = (event) => {
    event.preventDefault();
    const wanted = text.trim() || EVERYTHING;
    if (wanted === subject) pages.reload();
    else go("stream", null, { subject: wanted });
  };
  return html`<${Panel} title="Tail">
    <form class="id-form" onSubmit=${submit} novalidate>
      <label for="subject">Subject <span class="fine"><code>*</code> stands for one word, <code>></code> for the rest</span></label>
      <div class="id-form-row">
        <input id="subject" class="mono" value=${text} autocomplete="off" spellcheck="false" onInput=${(event) => setText(event.target.value)} />
        <button type="submit" class="primary">Show</button>
      </div>
    </form>
    <${Newer} shown=${pages.rows[0]?.position} reload=${pages.reload} />
    <${Loaded} of=${pages} what="Reading the stream">
      ${() =>
        pages.rows.length === 0
          ? html`<${Empty} title="No event on this subject" />`
          : html`<ul class="tail">${pages.rows.map((event) => html`<${Event} key=${event.position} event=${event} />`)}</ul><${More} of=${pages} />`}
    <//>
  <//>`;
}

/** Says that the stream has gone on, without moving what the operator reads. */
function Newer({ shown, reload }) {
  const { overview } = useStore(live);
  const behind = Number(overview?.stream_position ?? 0) - Number(shown ?? Infinity);
  if (!(behind > 0)) return null;
  return html`<p class="newer"><button type="button" class="quiet" onClick=${reload}>The stream has gone on to ${count(overview.stream_position)}: read again</button></p>`;
}

function Event({ event }) {
  const [open, setOpen] = useState(false);
  return html`<li class="tail-event">
    <button type="button" class="tail-head" aria-expanded=${open} onClick=${() => setOpen(!open)}>
      <span class="number">${count(event.position)}</span>
      <span class="tail-time"><${Moment} at=${event.time} /></span>
      <code>${event.type ?? "unreadable"}</code>
      <span class="tail-subject"><${Subject} of=${event.subject} /></span>
    </button>
    ${open && html`<${Json} text=${event.body} label=${`Body of event ${event.position}`} />`}
  </li>`;
}
