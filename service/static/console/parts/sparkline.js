// Twenty-four hours as small bars; the counts beside it say the same in numbers.
import { count } from "../format.js";
import { html } from "../ui.js";

const WIDTH = 3;
const GAP = 1;
const HEIGHT = 20;

export function Sparkline({ counts, label }) {
  const highest = Math.max(1, ...counts);
  const total = counts.reduce((sum, value) => sum + value, 0);
  return html`<svg
    class="sparkline"
    role="img"
    aria-label=${`${label}: ${count(total)} in ${counts.length} hours, at most ${count(Math.max(0, ...counts))} in one`}
    viewBox=${`0 0 ${counts.length * (WIDTH + GAP)} ${HEIGHT}`}
    width=${counts.length * (WIDTH + GAP)}
    height=${HEIGHT}
  >
    ${counts.map((value, hour) => {
      const height = value === 0 ? 1 : Math.max(3, (value / highest) * HEIGHT);
      return html`<rect
        key=${hour}
        class=${value === 0 ? "none" : "some"}
        x=${hour * (WIDTH + GAP)}
        y=${HEIGHT - height}
        width=${WIDTH}
        height=${height}
      />`;
    })}
  </svg>`;
}
