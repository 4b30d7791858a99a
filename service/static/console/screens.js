// The list of screens: the name in the address, the title, the entry in the navigation, and what draws it.
import { Audit } from "./screens/audit.js";
import { CampaignLens } from "./screens/campaign.js";
import { CustomerLens } from "./screens/customer.js";
import { Generations } from "./screens/generations.js";
import { Job } from "./screens/job.js";
import { Keys } from "./screens/keys.js";
import { Overview } from "./screens/overview.js";
import { Parked } from "./screens/parked.js";
import { Stream } from "./screens/stream.js";

export const SCREENS = [
  { name: "overview", section: "overview", title: "Overview", nav: "Overview", component: Overview },
  { name: "generations", section: "generations", title: "Generations", nav: "Generations", component: Generations },
  { name: "job", section: "generations", title: "Job", component: Job },
  { name: "parked", section: "parked", title: "Parked events", nav: "Parked", component: Parked },
  { name: "customer", section: "customer", title: "Customer", nav: "Customer", component: CustomerLens },
  { name: "campaign", section: "campaign", title: "Campaign", nav: "Campaign", component: CampaignLens },
  { name: "stream", section: "stream", title: "Stream", nav: "Stream", component: Stream },
  { name: "audit", section: "audit", title: "Audit", nav: "Audit", component: Audit },
  { name: "keys", section: "keys", title: "API keys", nav: "Keys", component: Keys },
];

export const screenOf = (name) => SCREENS.find((screen) => screen.name === name);
