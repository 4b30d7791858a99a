// The sign-in screen: takes a token or an API key, and says why one is refused.
import { get } from "./api.js";
import { keep, session } from "./session.js";
import { useStore } from "./store.js";
import { html, useEffect, useRef, useState } from "./ui.js";

const MIXED_CASE_BEARER = /^bearer\s+/i;

export function SignIn() {
  const { ended } = useStore(session);
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [refusal, setRefusal] = useState(ended);
  const field = useRef(null);
  useEffect(() => {
    document.title = "Sign in · Campaign Membership";
    field.current.focus();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    const credential = text.trim().replace(MIXED_CASE_BEARER, "");
    if (!credential) return setRefusal("Paste a token or an API key.");
    if (!/^[\x21-\x7e]+$/.test(credential)) return setRefusal("This is not a token: it has spaces or letters that no token has.");
    setBusy(true);
    try {
      keep(credential, await get("/ops/session", { credential }));
    } catch (problem) {
      setRefusal(problem.code === "insufficient_scope" ? STRANGER : problem.sentence);
      field.current?.focus();
    } finally {
      setBusy(false);
    }
    return undefined;
  };
  return html`<main class="alone">
    <h1 class="brand">Campaign <span>Membership</span></h1>
    <p class="lead">The operator’s console</p>
    <form class="sign-in" onSubmit=${submit} novalidate>
      <div class="field">
        <label for="credential">Token or API key</label>
        <input id="credential" ref=${field} type="password" autocomplete="off" spellcheck="false" value=${text}
          aria-describedby="about-credential refusal" aria-invalid=${refusal ? "true" : null}
          onInput=${(event) => setText(event.target.value)} />
      </div>
      <p id="refusal" class="inline-problem" role="alert">${refusal}</p>
      <button type="submit" class="primary" disabled=${busy}>${busy ? "Signing in …" : "Sign in"}</button>
      <p id="about-credential" class="fine">
        It needs the scope <code>operate</code>: an admin’s token, or an API key made with <code>--scope operate</code>.
        It stays in this tab until you close it or sign out.
      </p>
    </form>
    <details class="fine">
      <summary>Where do I get one?</summary>
      <p><code>membership dev</code> prints an admin’s token when it is ready.</p>
      <p>Elsewhere: <code>membership token --user ID --admin</code>, your identity provider, or
        <code>membership api-key create --user ID --scope operate</code>.</p>
    </details>
  </main>`;
}

const STRANGER = "You are known, but you may not operate: this credential lacks the scope “operate”. Ask for an admin’s token or for a key with that scope.";
