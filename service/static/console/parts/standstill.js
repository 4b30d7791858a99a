// Finds when the projector applied nothing although events waited.
const STANDSTILL_S = 15;

/** Return intervals `{from, to}` in Unix seconds, each at least STANDSTILL_S long. */
export function standstills(samples) {
  const intervals = [];
  let open = null;
  for (const sample of samples) {
    const at = new Date(sample.at).getTime() / 1000;
    const waits = sample.lag_events > 0;
    if (open && waits && sample.position === open.position) open.to = at;
    else {
      if (open) intervals.push(open);
      open = waits ? { from: at, to: at, position: sample.position } : null;
    }
  }
  if (open) intervals.push(open);
  return intervals.filter(({ from, to }) => to - from >= STANDSTILL_S);
}
