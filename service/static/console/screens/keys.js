// API keys: who may read and operate with a key, and until when; a new key is shown once.
import { useLoad } from "../load.js";
import { Heading, Id, Moment, Panel, Pill } from "../parts/basic.js";
import { Dialog } from "../parts/dialog.js";
import { PlanButton } from "../parts/plan_button.js";
import { PlanView } from "../parts/plan_view.js";
import { Empty, Loaded } from "../parts/states.js";
import { Table } from "../parts/table.js";
import { isUuid } from "../format.js";
import { html, useState } from "../ui.js";

export function Keys() {
  const state = useLoad("/ops/keys", ["audit"]);
  const [creating, setCreating] = useState(false);
  const close = () => {
    setCreating(false);
    state.reload();
  };
  return html`
    <${Heading} title="API keys" about="A key sees what its user sees, within its scopes. Only a hash of it is stored.">
      <button type="button" class="primary" onClick=${() => setCreating(true)}>Create a key …</button>
    <//>
    <${Panel} title="Keys">
      <${Loaded} of=${state} what="Reading the keys">
        ${({ keys }) =>
          keys.length === 0
            ? html`<${Empty} title="There is no key yet">Programs that cannot sign a token use one.<//>`
            : html`<${Table} caption="API keys" columns=${COLUMNS} rows=${keys} keyOf=${(key) => key.key_id} />`}
      <//>
    <//>
    ${creating && html`<${Create} onClose=${close} />`}
  `;
}

const TONES = { valid: "ok", expired: "warn", revoked: "plain" };

const COLUMNS = [
  { label: "Name", cell: (key) => key.name || html`<span class="unknown">unnamed</span>` },
  { label: "Key", cell: (key) => html`<code>${key.key_id}</code>` },
  { label: "State", cell: (key) => html`<${Pill} tone=${TONES[key.state]}>${key.state}<//>` },
  { label: "Scopes", cell: (key) => `${(key.scopes ?? []).join(", ")}${key.is_admin ? " · admin" : ""}` },
  { label: "User", cell: (key) => html`<${Id} of=${key.user_id} />` },
  { label: "Created", cell: (key) => html`<${Moment} at=${key.created_at} />` },
  { label: "Expires", cell: (key) => (key.expires_at ? html`<${Moment} at=${key.expires_at} />` : "never") },
  { label: "Last used, by the hour", cell: (key) => (key.last_used_at ? html`<${Moment} at=${key.last_used_at} />` : "not yet") },
  {
    label: "Actions",
    hidden: true,
    cell: (key) => key.state === "valid" && html`<${PlanButton} wanted=${revoke(key)}>Revoke …<//>`,
  },
];

const revoke = (key) => ({
  title: `Revoke ${key.name || key.key_id}`,
  verb: "Revoke",
  action: "key_revoke",
  parameters: { key_id: key.key_id },
  danger: true,
});

const LIFETIMES = [
  { label: "90 days", ttl_s: 90 * 86_400 },
  { label: "30 days", ttl_s: 30 * 86_400 },
  { label: "a day", ttl_s: 86_400 },
  { label: "without end", ttl_s: undefined },
];

/** First the form, then the plan of what it says. */
function Create({ onClose }) {
  const [parameters, setParameters] = useState(null);
  return html`<${Dialog} title="Create an API key" onClose=${onClose}>
    ${parameters
      ? html`<${PlanView} wanted=${{ title: "Create an API key", verb: "Create the key", action: "key_create", parameters }} onClose=${onClose} />`
      : html`<${KeyForm} onDone=${setParameters} onClose=${onClose} />`}
  <//>`;
}

function KeyForm({ onDone, onClose }) {
  const [values, setValues] = useState({ name: "", user: "", read: true, operate: false, admin: false, lifetime: 0 });
  const [problem, setProblem] = useState(null);
  const set = (name) => (event) => setValues({ ...values, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const submit = (event) => {
    event.preventDefault();
    const lack = lacking(values);
    setProblem(lack);
    if (!lack) onDone(parametersOf(values));
  };
  const check = (name, label) => html`<label class="check"><input type="checkbox" checked=${values[name]} onChange=${set(name)} /> ${label}</label>`;
  return html`<form class="run" onSubmit=${submit} novalidate>
    <div class="field"><label for="key-name">Name <span class="fine">who uses it</span></label><input id="key-name" value=${values.name} autocomplete="off" onInput=${set("name")} /></div>
    <div class="field"><label for="key-user">Id of the user whose customers it sees</label><input id="key-user" class="mono" value=${values.user} autocomplete="off" spellcheck="false" onInput=${set("user")} /></div>
    <fieldset><legend>It may</legend>
      ${check("read", "read lists and histories")}
      ${check("operate", "operate: use this console and /ops")}
      ${check("admin", "see every customer (admin)")}
    </fieldset>
    <div class="field"><label for="key-life">Valid for</label>
      <select id="key-life" value=${values.lifetime} onChange=${set("lifetime")}>${LIFETIMES.map((life, index) => html`<option key=${life.label} value=${index}>${life.label}</option>`)}</select>
    </div>
    <p class="inline-problem" role="alert">${problem}</p>
    <div class="dialog-actions">
      <button type="button" onClick=${onClose}>Leave as it is</button>
      <button type="submit" class="primary">Show the plan</button>
    </div>
  </form>`;
}

function lacking(values) {
  if (!values.name.trim()) return "Name the key: the name says later who uses it.";
  if (!isUuid(values.user.trim().toLowerCase())) return "The user’s id is a UUID, 36 characters long.";
  return values.read || values.operate ? null : "Choose at least one of “read” and “operate”.";
}

function parametersOf(values) {
  const { ttl_s } = LIFETIMES[Number(values.lifetime)];
  return {
    name: values.name.trim(),
    user_id: values.user.trim().toLowerCase(),
    is_admin: values.admin,
    scopes: ["read", "operate"].filter((scope) => values[scope]),
    ...(ttl_s === undefined ? {} : { ttl_s }),
  };
}
