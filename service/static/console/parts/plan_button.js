// Buttons that open a plan, and the one place that shows it: it stays open when the button's row disappears meanwhile.
import { route } from "../router.js";
import { store, useStore } from "../store.js";
import { html, useEffect, useState } from "../ui.js";
import { PlanDialog } from "./plan_view.js";

const opened = store({ wanted: null });

const close = () => opened.set({ wanted: null });

/** `wanted` as for `PlanDialog`. */
export function PlanButton({ wanted, className = "", children }) {
  return html`<button
    type="button"
    class=${className || (wanted.danger ? "danger-quiet" : "")}
    onClick=${() => opened.set({ wanted })}
  >
    ${children ?? wanted.title}
  </button>`;
}

/** Draws the open plan, above all screens; following a link out of it closes it. */
export function PlanHost() {
  const { wanted } = useStore(opened);
  const at = useStore(route);
  const [place, setPlace] = useState(at);
  useEffect(() => {
    if (at !== place) close();
    setPlace(at);
  }, [at]);
  return wanted && html`<${PlanDialog} wanted=${wanted} onClose=${close} />`;
}
