// The last hour as two charts drawn by uPlot: the positions, with standstills shaded, and the lag.
import { clock, count, duration } from "../format.js";
import { html, useEffect, useRef } from "../ui.js";
import { standstills } from "./standstill.js";

const { uPlot } = globalThis;
const HEIGHT = 200;
const HEIGHT_NARROW = 150;
/** A chart of fewer minutes would repeat its labels. */
const SPAN_MIN_S = 600;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seconds = (text) => new Date(text).getTime() / 1000;
const orNull = (value) => (value === undefined || value === null ? null : Number(value));

/** Columns for uPlot. */
export function columnsOf(samples) {
  return {
    times: samples.map((sample) => seconds(sample.at)),
    stream: samples.map((sample) => orNull(sample.stream_position)),
    applied: samples.map((sample) => orNull(sample.position)),
    lag: samples.map((sample) => orNull(sample.lag_events)),
  };
}

/** A number short enough for an axis: 12,638 or 1.2M. */
const tick = (value) =>
  Math.abs(value) >= 1e6 ? `${(value / 1e6).toPrecision(4)}M` : count(Math.round(value));

function axes() {
  const common = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: '12px Inter, system-ui, sans-serif',
  };
  return [
    { ...common, size: 28, grid: { show: false }, values: (_, ticks) => ticks.map((at) => clock(new Date(at * 1000)).slice(0, 5)) },
    { ...common, size: 64, values: (_, ticks) => ticks.map((value) => (Number.isInteger(value) ? tick(value) : "")) },
  ];
}

function shade(intervals) {
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = colour("--stall");
    for (const { from, to } of intervals) {
      const left = Math.max(bbox.left, plot.valToPos(from, "x", true));
      const right = Math.min(bbox.left + bbox.width, plot.valToPos(to, "x", true));
      if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  };
}

const optionsOf = (width, series, draw, bands) => ({
  width,
  height: width < 480 ? HEIGHT_NARROW : HEIGHT,
  padding: [12, 12, 0, 0],
  cursor: { y: false, points: { size: 6 } },
  legend: { show: false },
  scales: { x: { time: true, range: (_, from, to) => [Math.min(from, to - SPAN_MIN_S), to] }, y: { range: (_, low, high) => paddedRange(low, high) } },
  axes: axes(),
  series: [{}, ...series],
  bands,
  hooks: { drawClear: [draw] },
});

/** Never narrower than ten, so that one event does not look like a cliff. */
function paddedRange(low, high) {
  if (low === null || high === null) return [0, 10];
  const missing = Math.max(0, 10 - (high - low));
  const bottom = Math.max(0, low - missing / 2);
  return [bottom, Math.max(high + missing / 2, bottom + 10)];
}

function lines(kind) {
  const line = (name, extra = {}) => ({ stroke: colour(name), width: 1.75, points: { show: false }, ...extra });
  return kind === "positions"
    ? { series: [line("--stream"), line("--accent")], bands: [{ series: [1, 2], fill: colour("--gap") }] }
    : { series: [line("--accent", { fill: colour("--accent-wash") })], bands: [] };
}

/** A chart that follows its width and the colour scheme. */
function Plot({ kind, columns, intervals, label }) {
  const box = useRef(null);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined; // removed before this effect ran
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    let plot = null;
    const draw = () => {
      plot?.destroy();
      const { series, bands } = lines(kind);
      const data = kind === "positions" ? [columns.times, columns.stream, columns.applied] : [columns.times, columns.lag];
      plot = new uPlot(optionsOf(element.clientWidth || 300, series, shade(intervals), bands), data, element);
    };
    const resize = new ResizeObserver(() => {
      if (plot && element.clientWidth !== plot.width) draw();
    });
    draw();
    resize.observe(element);
    scheme.addEventListener("change", draw);
    return () => {
      scheme.removeEventListener("change", draw);
      resize.disconnect();
      plot?.destroy();
    };
  }, [kind, columns, intervals]);
  return html`<div class="plot" role="img" aria-label=${label} ref=${box}></div>`;
}

/** Both charts and the sentence that they show. */
export function LastHour({ samples }) {
  const columns = columnsOf(samples);
  const intervals = standstills(samples);
  const highest = Math.max(0, ...columns.lag.filter((value) => value !== null));
  return html`<div class="charts">
    <figure>
      <figcaption>
        <span class="chart-title">Position</span>
        <span class="key"><i class="swatch swatch-stream"></i>stream</span>
        <span class="key"><i class="swatch swatch-applied"></i>applied</span>
        ${intervals.length > 0 && html`<span class="key"><i class="swatch swatch-stall"></i>standstill</span>`}
      </figcaption>
      <${Plot} kind="positions" columns=${columns} intervals=${intervals} label="Positions of the stream and of the live generation in the last hour" />
    </figure>
    <figure>
      <figcaption><span class="chart-title">Lag</span><span class="key">events not applied yet</span></figcaption>
      <${Plot} kind="lag" columns=${columns} intervals=${intervals} label=${`Lag in the last hour: at most ${count(highest)} events`} />
    </figure>
    <p class="chart-sentence">${sentence(intervals, highest)}</p>
  </div>`;
}

function sentence(intervals, highest) {
  if (intervals.length === 0) {
    return `In the last hour the projector never stood still; the lag was at most ${count(highest)} ${highest === 1 ? "event" : "events"}.`;
  }
  const total = intervals.reduce((sum, { from, to }) => sum + to - from, 0);
  const last = intervals.at(-1);
  const [from, to] = [last.from, last.to].map((at) => clock(new Date(at * 1000)));
  const times = intervals.length === 1 ? "once" : `${intervals.length} times`;
  return `In the last hour the projector stood still ${times}, ${duration(total)} in all, while events waited; last from ${from} to ${to} UTC.`;
}
