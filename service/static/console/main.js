// Starts the console: the sign-in screen without a credential, otherwise the shell with the screen of the address.
import { App } from "./app.js";
import { html, render } from "./ui.js";

const root = document.getElementById("console");
root.replaceChildren();
render(html`<${App} />`, root);
