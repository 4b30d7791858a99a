// The shell: navigation, the dot that says whether the page is live, and the screen that the address names.
import { ago, duration } from "./format.js";
import { connect, live, retryNow } from "./live.js";
import { get } from "./api.js";
import { useNow } from "./parts/basic.js";
import { PlanHost } from "./parts/plan_button.js";
import { Empty, Loading, ProblemNote } from "./parts/states.js";
import { href, route } from "./router.js";
import { SCREENS, screenOf } from "./screens.js";
import { EXPIRED, end, keep, session } from "./session.js";
import { SignIn } from "./sign_in.js";
import { useStore } from "./store.js";
import { html, useEffect, useRef, useState } from "./ui.js";

/** The longest that a browser's timer waits, some 24 days. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export function App() {
  const { credential, principal } = useStore(session);
  if (!credential) return html`<${SignIn} />`;
  return principal ? html`<${Shell} principal=${principal} />` : html`<${Resume} credential=${credential} />`;
}

/** After a reload: ask again who the kept credential is. */
function Resume({ credential }) {
  const [problem, setProblem] = useState(null);
  const ask = () => {
    setProblem(null);
    get("/ops/session", { credential }).then((principal) => keep(credential, principal), setProblem);
  };
  useEffect(ask, [credential]);
  return html`<main class="alone">
    <h1 class="brand">Campaign Membership</h1>
    ${problem ? html`<${ProblemNote} problem=${problem} retry=${ask} />` : html`<${Loading} what="Signing in" />`}
    ${problem && html`<p><button type="button" class="quiet" onClick=${() => end()}>Sign in with another credential</button></p>`}
  </main>`;
}

function Shell({ principal }) {
  const at = useStore(route);
  useEffect(connect, []);
  useExpiry(principal.expires_at);
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <div class="shell">
      <${Side} principal=${principal} current=${at.screen} />
      <main id="main" tabindex="-1">
        <${NotLive} />
        <${Screen} at=${at} />
      </main>
    </div>
    <${PlanHost} />
  `;
}

/** Ask for a new credential at the moment at which this one expires. */
function useExpiry(at) {
  useEffect(() => {
    if (!at) return undefined;
    const left_ms = Math.min(new Date(at) - Date.now(), TIMER_MAX_MS);
    const timer = setTimeout(() => Date.now() >= new Date(at) && end(EXPIRED), left_ms);
    return () => clearTimeout(timer);
  }, [at]);
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

/** The screen of an address; opening another one moves the focus to its heading. */
function Screen({ at }) {
  const screen = screenOf(at.screen);
  const box = useRef(null);
  const first = useRef(true);
  const place = `${at.screen}/${at.id ?? ""}`;
  useEffect(() => {
    document.title = `${screen?.title ?? "Not found"} · Campaign Membership`;
    if (!first.current) {
      scrollTo(0, 0);
      box.current.querySelector("h1")?.focus({ preventScroll: true });
    }
    first.current = false;
  }, [place]);
  return html`<div ref=${box} class="screen" key=${place}>
    ${screen
      ? html`<${screen.component} id=${at.id} query=${at.query} />`
      : html`<h1 tabindex="-1">Not found</h1>
          <${Empty} title="This console has no such screen.">Choose one from the navigation.<//>`}
  </div>`;
}

function Side({ principal, current }) {
  const [open, setOpen] = useState(false);
  const section = screenOf(current)?.section;
  useEffect(() => setOpen(false), [current]);
  return html`<header class=${open ? "side side-open" : "side"}>
    <div class="side-top">
      <a class="brand" href=${href("overview")}>Campaign <span>Membership</span></a>
      <${Dot} />
      <button type="button" class="menu quiet" aria-expanded=${open} aria-controls="navigation" onClick=${() => setOpen(!open)}>Menu</button>
    </div>
    <nav id="navigation" aria-label="Screens">
      <ul>
        ${SCREENS.filter((screen) => screen.nav).map(
          (screen) => html`<li key=${screen.name}>
            <a href=${href(screen.name)} aria-current=${section === screen.section ? "page" : null}>
              ${screen.nav}<${Badge} of=${screen.name} />
            </a>
          </li>`,
        )}
      </ul>
      <${Who} principal=${principal} />
    </nav>
  </header>`;
}

/** The number of things that wait on a screen. */
function Badge({ of }) {
  const { overview } = useStore(live);
  if (of === "parked" && overview?.parked > 0) return html`<span class="badge">${overview.parked.toLocaleString("en")}</span>`;
  if (of === "generations" && overview?.jobs?.some((job) => job.awaits_approval)) return html`<span class="badge">decision</span>`;
  return null;
}

function Who({ principal }) {
  const left_s = principal.expires_at ? (new Date(principal.expires_at) - useNow()) / 1000 : null;
  return html`<div class="who">
    <p class="fine">${principal.is_admin ? "Admin" : "Operator"} <code title=${principal.user_id}>${principal.user_id.slice(0, 8)}</code></p>
    ${left_s !== null && html`<p class="fine">Signed in for ${left_s > 0 ? duration(Math.max(60, left_s)).replace(/ \d+ s$/, "") : "a moment"}</p>`}
    <p class="fine">Release ${principal.release}</p>
    <button type="button" class="quiet" onClick=${() => end()}>Sign out</button>
  </div>`;
}

const DOTS = { live: "Live", connecting: "Connecting", lost: "Not live" };

/** Says whether the page receives the overview live. */
function Dot() {
  const { status } = useStore(live);
  return html`<p class=${`dot dot-${status}`} role="status"><i aria-hidden="true"></i>${DOTS[status]}</p>`;
}

/** The banner over a page that is not live: since when, and when it is tried again. */
function NotLive() {
  const { status, heardAt, retryAt, sentence } = useStore(live);
  const now = useNow();
  if (status !== "lost") return null;
  const left_s = retryAt ? Math.max(0, Math.ceil((retryAt - now) / 1000)) : 0;
  const since = heardAt ? `What you see is from ${ago(heardAt, now)}.` : "";
  return html`<div class="not-live">
    <p>
      <span role="status"><strong>Not live.</strong> ${sentence}</span>
      <span>${` ${since} ${left_s > 0 ? `Trying again in ${left_s} s.` : "Trying again …"}`}</span>
    </p>
    <button type="button" onClick=${retryNow}>Try now</button>
  </div>`;
}
