// The screen that the address names: `#/parked/19141?reason=unknown_type`, so that every view can be linked.
import { store } from "./store.js";

export const route = store(parse(location.hash));

addEventListener("hashchange", () => route.set(parse(location.hash)));

function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const segments = path.split("/").filter(Boolean).map(decoded);
  return { screen: segments[0] ?? "overview", id: segments[1], query: Object.fromEntries(new URLSearchParams(query)) };
}

function decoded(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** The address of a screen; query values that are empty are left out. */
export function href(screen, id, query = {}) {
  const present = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = new URLSearchParams(present).toString();
  const path = id === undefined || id === null ? screen : `${screen}/${encodeURIComponent(id)}`;
  return `#/${path}${search ? `?${search}` : ""}`;
}

export const go = (screen, id, query) => {
  location.hash = href(screen, id, query);
};
