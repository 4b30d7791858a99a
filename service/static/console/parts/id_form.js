// Asks for the id that a lens shows, and says at once if a text is none.
import { isUuid } from "../format.js";
import { go } from "../router.js";
import { html, useEffect, useState } from "../ui.js";

export function IdForm({ lens, noun, id }) {
  const [text, setText] = useState(id ?? "");
  const [problem, setProblem] = useState(null);
  useEffect(() => setText(id ?? ""), [id]);
  const submit = (event) => {
    event.preventDefault();
    const wanted = text.trim().toLowerCase();
    setProblem(isUuid(wanted) ? null : noId(noun));
    if (isUuid(wanted)) go(lens, wanted);
  };
  return html`<form class="id-form" onSubmit=${submit} novalidate role="search" aria-label=${`Find a ${noun}`}>
    <label for="lens-id">Id of the ${noun}</label>
    <div class="id-form-row">
      <input id="lens-id" class="mono" value=${text} autocomplete="off" spellcheck="false" placeholder="00000000-0000-4000-8000-000000000000"
        aria-describedby="lens-problem" aria-invalid=${problem ? "true" : null} onInput=${(event) => setText(event.target.value)} />
      <button type="submit" class="primary">Show</button>
    </div>
    <p id="lens-problem" class="inline-problem" role="alert">${problem}</p>
  </form>`;
}

export const noId = (noun) => `This is not the id of a ${noun}: an id is a UUID, 36 characters long.`;
