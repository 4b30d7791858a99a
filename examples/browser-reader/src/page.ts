// The page: a form, the list, and a button for the next page.

import type { CampaignPage, ListParameters } from "../../../contracts/typescript/api.js";
import { CampaignReader, RequestFailed } from "./campaign_reader.js";

const form = element("form", HTMLFormElement);
const list = element("campaigns", HTMLUListElement);
const status = element("status", HTMLParagraphElement);
const more = element("more", HTMLButtonElement);

let reader: CampaignReader | undefined;
let next: string | undefined;

const api = form.elements.namedItem("api");
const given = new URLSearchParams(location.search).get("api");
if (api instanceof HTMLInputElement && given !== null) api.value = given;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  reader ??= new CampaignReader(text("api"), text("token"));
  list.replaceChildren();
  void show({});
});
form.addEventListener("change", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.name !== "q") reader = undefined;
});
more.addEventListener("click", () => void show(next === undefined ? {} : { cursor: next }));

function text(name: string): string {
  return String(new FormData(form).get(name));
}

async function show(page: Pick<ListParameters, "cursor">): Promise<void> {
  if (reader === undefined) return;
  try {
    const answer = await reader.list(text("customer"), { ...page, q: text("q"), limit: 5 });
    append(answer.page);
    const origin = answer.isNew ? "sent" : "not changed";
    status.textContent = `${answer.page.meta.total} campaigns at position ${answer.position} (${origin})`;
  } catch (problem) {
    more.hidden = true;
    status.textContent = problem instanceof RequestFailed ? `${problem.code}: ${problem.message}` : String(problem);
  }
}

function append(page: CampaignPage): void {
  for (const campaign of page.data) {
    const item = document.createElement("li");
    item.textContent = `${campaign.name} — ${campaign.status}, ${campaign.contacts_contacted ?? 0} contacted`;
    list.append(item);
  }
  next = page.meta.next_cursor;
  more.hidden = next === undefined;
}

function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`There is no ${kind.name} with the id ${id}.`);
  return found;
}
