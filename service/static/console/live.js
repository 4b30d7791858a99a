// The live connection: server-sent events read through fetch, so that the credential is a header.
//
// Invariants: one connection at a time; silence of SILENCE_MS counts as lost; a lost one is opened again with a growing
// pause until it is heard again; whatever is shown meanwhile is marked as old.
import { failure, parsed, problemOf } from "./api.js";
import { EXPIRED, end, headersOf, session } from "./session.js";
import { store } from "./store.js";

const SILENCE_MS = 15_000;
const CONNECT_MS = 10_000;
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 8_000;
const BUFFER_CHARS_MAX = 1_000_000;

/** `status`: connecting, live, lost. `overview` is the last one heard, at `heardAt`; `sentence` says why it is lost. */
export const live = store({ status: "connecting", overview: null, heardAt: null, retryAt: null, sentence: null });

const listeners = new Set();

/** Call `listener` with the name of what changed: jobs, parked, generations, plans, audit; `all` after an interruption. */
export function onChanged(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = (what) => {
  for (const listener of [...listeners]) listener(what);
};

let current = null;
let wake = null;

/** Keep a connection open until the returned function is called. */
export function connect() {
  const loop = { stopped: false, controller: null };
  current = loop;
  run(loop);
  return () => {
    loop.stopped = true;
    loop.controller?.abort();
    wake?.();
    if (current === loop) live.set({ status: "connecting", overview: null, heardAt: null, retryAt: null });
  };
}

/** Try again now instead of at the end of the pause. */
export const retryNow = () => wake?.();

async function run(loop) {
  let pause_ms = PAUSE_MIN_MS;
  let interrupted = false;
  while (!loop.stopped) {
    const heard = await once(loop, interrupted);
    if (loop.stopped) return;
    interrupted = true;
    pause_ms = heard ? PAUSE_MIN_MS : Math.min(pause_ms * 2, PAUSE_MAX_MS);
    live.set({ status: "lost", retryAt: Date.now() + pause_ms });
    await pause(pause_ms);
    if (!loop.stopped) live.set({ retryAt: null });
  }
}

const pause = (ms) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

/** Read one connection until it ends; return whether anything was heard. */
async function once(loop, interrupted) {
  const controller = new AbortController();
  loop.controller = controller;
  let timer = setTimeout(() => controller.abort(), CONNECT_MS);
  let heard = false;
  const hear = () => {
    clearTimeout(timer);
    timer = setTimeout(() => controller.abort(), SILENCE_MS);
    if (!heard && interrupted) tell("all");
    heard = true;
  };
  try {
    const response = await fetch("/ops/live", {
      headers: { ...headersOf(session.get().credential), Accept: "text/event-stream" },
      cache: "no-store",
      credentials: "omit",
      signal: controller.signal,
    });
    if (!response.ok) refuse(failure(response, parsed(await response.text())));
    else await readEvents(response.body, hear, loop);
    if (response.ok) live.set({ sentence: "The API ended the live connection." });
  } catch {
    live.set({ sentence: heard ? "The live connection was lost." : problemOf("unreachable").sentence });
  } finally {
    clearTimeout(timer);
    controller.abort();
  }
  return heard;
}

function refuse(problem) {
  live.set({ sentence: problem.sentence });
  if (problem.status === 401) end(problem.sentence);
}

async function readEvents(body, hear, loop) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done || loop.stopped) return;
    hear();
    buffer += value.replaceAll("\r\n", "\n");
    if (buffer.length > BUFFER_CHARS_MAX) return;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) dispatch(block);
  }
}

function dispatch(block) {
  const fields = { event: "message", data: "" };
  for (const line of block.split("\n")) {
    const [name, value] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
    if (name === "event") fields.event = value;
    if (name === "data") fields.data += value;
  }
  const content = parsed(fields.data);
  if (fields.event === "overview" && content) {
    live.set({ status: "live", overview: content, heardAt: Date.now(), retryAt: null, sentence: null });
  }
  if (fields.event === "unavailable" && content) {
    live.set({ status: "lost", retryAt: null, sentence: UNAVAILABLE[content.code] ?? UNAVAILABLE.database_unavailable });
  }
  if (fields.event === "changed" && content) tell(content.what);
  if (fields.event === "end" && content) ended(content);
}

const UNAVAILABLE = {
  database_unavailable: "The API answers, but the database does not.",
  identity_provider_unavailable: "The API answers, but it cannot check your token: the identity provider does not answer.",
};

const ENDINGS = {
  token_expired: EXPIRED,
  api_key_expired: "This API key has expired.",
  api_key_revoked: "This API key was revoked.",
  insufficient_scope: "Your credential has lost the scope “operate”. Sign in with one that has it.",
};

function ended({ code, detail }) {
  if (code === "draining") return;
  end(ENDINGS[code] ?? detail ?? "The API no longer accepts this credential. Sign in again.");
}
