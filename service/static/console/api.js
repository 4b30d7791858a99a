// Requests to the API: each has a deadline, and each failure becomes a Problem with a sentence to show.
import { end, headersOf, session } from "./session.js";

const DEADLINE_MS = 10_000;

export class Problem extends Error {
  /** `code` is the API's stable code, or `unreachable`, `deadline`, `unreadable` where no answer came. */
  constructor({ code, status = 0, sentence, body = {} }) {
    super(sentence);
    this.code = code;
    this.status = status;
    this.sentence = sentence;
    this.body = body;
  }
}

const SENTENCES = {
  unreachable: "The API does not answer at this address. It may be restarting, or the network is down.",
  deadline: `The API did not answer within ${DEADLINE_MS / 1000} seconds.`,
  unreadable: "The answer is not what this console expects. The API may be of another release: reload the page.",
};

export const problemOf = (code) => new Problem({ code, sentence: SENTENCES[code] });

export const get = (path, options) => send("GET", path, undefined, options);
export const post = (path, body, options) => send("POST", path, body, options);

async function send(method, path, body, { credential, signal, deadline_ms = DEADLINE_MS } = {}) {
  const timeout = AbortSignal.timeout(deadline_ms);
  const used = credential ?? session.get().credential;
  try {
    const response = await fetch(path, {
      method,
      headers: { ...headersOf(used), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    return await read(response, used);
  } catch (error) {
    if (error instanceof Problem || signal?.aborted) throw error;
    throw problemOf(timeout.aborted ? "deadline" : "unreachable");
  }
}

async function read(response, used) {
  const text = await response.text();
  const answer = parsed(text);
  if (response.ok && answer !== undefined) return answer;
  const problem = failure(response, answer);
  if (problem.status === 401 && used === session.get().credential) end(problem.sentence);
  throw problem;
}

/** The problem that a response states; of a 422 the sentences of all violations. */
export function failure(response, answer) {
  if (answer === undefined) return problemOf(response.status >= 502 ? "unreachable" : "unreadable");
  const violations = Array.isArray(answer.detail)
    ? answer.detail.map((violation) => violation.msg).join(" ")
    : answer.detail;
  return new Problem({
    code: answer.code ?? `http_${response.status}`,
    status: response.status,
    sentence: violations || answer.title || `The API answered ${response.status}.`,
    body: answer,
  });
}

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A path with its query; parameters without a value are left out. */
export function pathOf(path, parameters = {}) {
  const query = new URLSearchParams(
    Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== ""),
  ).toString();
  return query ? `${path}?${query}` : path;
}
