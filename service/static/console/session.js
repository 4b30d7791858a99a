// The credential of this tab: kept in session storage, sent as a header, never as a cookie.
import { store } from "./store.js";

const KEY = "membership.console.credential";
const API_KEY_PREFIX = "mbr_";
export const EXPIRED = "Your token has expired. Paste a new one: you return to the screen you were on.";

export const session = store({ credential: sessionStorage.getItem(KEY), principal: null, ended: null });

/** The request header of a credential: an API key by its prefix, anything else is a bearer token. */
export function headersOf(credential) {
  if (!credential) return {};
  return credential.startsWith(API_KEY_PREFIX)
    ? { "X-API-Key": credential }
    : { Authorization: `Bearer ${credential}` };
}

export function keep(credential, principal) {
  sessionStorage.setItem(KEY, credential);
  session.set({ credential, principal, ended: null });
}

/** Forget the credential; `sentence` says why, and the sign-in screen shows it. */
export function end(sentence = null) {
  sessionStorage.removeItem(KEY);
  session.set({ credential: null, principal: null, ended: sentence });
}
