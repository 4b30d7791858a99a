// Reads a customer's campaigns: typed answers and errors, and a body is not sent again while it has not changed.

import type { CampaignPage, InvalidParameters, ListParameters, Problem } from "../../../contracts/typescript/api.js";

const PAGES_KEPT_MAX = 100;

/** An answer other than 200 and 304; `code` is stable, for programs. */
export class RequestFailed extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }
}

export interface Answer {
  page: CampaignPage;
  /** The position of the event stream at which the page is exact. */
  position: number;
  /** Whether the page was sent, or is the one of an earlier answer. */
  isNew: boolean;
}

export class CampaignReader {
  private readonly kept = new Map<string, { tag: string; page: CampaignPage }>();

  constructor(
    private readonly api: string,
    private readonly token: string,
  ) {}

  async list(customer: string, parameters: ListParameters = {}): Promise<Answer> {
    const url = new URL(`/customers/${encodeURIComponent(customer)}/campaigns`, this.api);
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, String(value));
    const known = this.kept.get(url.href);
    const headers = new Headers({ Authorization: `Bearer ${this.token}` });
    if (known) headers.set("If-None-Match", known.tag);
    const response = await fetch(url, { headers, cache: "no-store" });
    const position = Number(response.headers.get("Membership-Position"));
    if (response.status === 304 && known) return { page: known.page, position, isNew: false };
    if (!response.ok) throw await failure(response);
    const page = (await response.json()) as CampaignPage;
    this.keep(url.href, response.headers.get("ETag"), page);
    return { page, position, isNew: true };
  }

  private keep(url: string, tag: string | null, page: CampaignPage): void {
    if (tag === null) return;
    const oldest = this.kept.keys().next().value;
    if (this.kept.size >= PAGES_KEPT_MAX && oldest !== undefined) this.kept.delete(oldest);
    this.kept.set(url, { tag, page });
  }
}

async function failure(response: Response): Promise<RequestFailed> {
  if (response.status === 422) {
    const { detail = [] } = (await response.json()) as InvalidParameters;
    const sentences = detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`);
    return new RequestFailed(422, "invalid_parameters", sentences.join("; "));
  }
  const problem = (await response.json()) as Problem;
  return new RequestFailed(response.status, problem.code, problem.detail);
}
