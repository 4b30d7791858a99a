// The drawing library under one name: preact's hooks, and htm bound to preact.
import { Fragment, h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact-hooks.js";
export { Fragment, render };

export const html = htm.bind(h);
