// A modal dialog: the browser keeps the focus inside, Escape closes it, and the focus returns to what opened it.
import { html, useEffect, useId, useRef } from "../ui.js";

export function Dialog({ title, onClose, children }) {
  const dialog = useRef(null);
  const name = useId();
  useEffect(() => {
    const opener = document.activeElement;
    dialog.current.showModal();
    dialog.current.querySelector("h2").focus();
    return () => (opener?.isConnected ? opener : document.querySelector("h1"))?.focus();
  }, []);
  return html`<dialog ref=${dialog} class="dialog" aria-labelledby=${name} onCancel=${(event) => {
    event.preventDefault();
    onClose();
  }}>
    <div class="dialog-head">
      <h2 id=${name} tabindex="-1">${title}</h2>
      <button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button>
    </div>
    ${children}
  </dialog>`;
}
