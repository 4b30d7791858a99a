// A write in two steps: ask for a plan, show exactly what it would do, then run it with a reason.
import { get, post, Problem } from "./api.js";
import { useCallback, useEffect, useRef, useState } from "./ui.js";

const POLL_MS = 1_000;
const PLANNING_MAX_MS = 120_000;
const ASK_DEADLINE_MS = 15_000;
/** A plan that the job runner could not describe, because there is nothing to do. */
const NOTHING = "nothing_to_plan";
const STALE = new Set(["plan_changed", "plan_expired", "plan_already_run"]);

/** Steps: asking, ready, sending, running, done, failed, nothing, stale, problem. */
export function usePlan(action, parameters) {
  const [state, setState] = useState({ step: "asking", plan: null, problem: null, secret: null });
  const alive = useRef(true);
  const round = useRef(0);
  const request = JSON.stringify({ action, ...parameters });

  const show = useCallback((plan, extra = {}) => {
    setState((before) => ({ ...before, plan: { ...before.plan, ...plan }, step: stepOf(plan), problem: null, ...extra }));
  }, []);

  const fail = useCallback((problem) => {
    const step = STALE.has(problem.code) ? "stale" : problem.code === NOTHING ? "nothing" : "problem";
    setState((before) => ({ ...before, step, problem }));
  }, []);

  const ask = useCallback(async () => {
    const own = ++round.current;
    const isCurrent = () => alive.current && own === round.current;
    setState({ step: "asking", plan: null, problem: null, secret: null });
    try {
      let plan = await post("/ops/plans", JSON.parse(request), { deadline_ms: ASK_DEADLINE_MS });
      const deadline = Date.now() + PLANNING_MAX_MS;
      while (plan.state === "planning") {
        if (!isCurrent()) return;
        if (Date.now() > deadline) throw notPlanned();
        await sleep(POLL_MS);
        plan = await get(`/ops/plans/${plan.plan_id}`);
      }
      if (isCurrent()) show(plan);
    } catch (problem) {
      if (isCurrent()) fail(problem);
    }
  }, [request, show, fail]);

  useEffect(() => {
    alive.current = true;
    ask();
    return () => {
      alive.current = false;
    };
  }, [ask]);

  useFollowed(state, show);

  const run = async (reason, confirm) => {
    setState((before) => ({ ...before, step: "sending", problem: null }));
    try {
      const content = confirm ? { reason, confirm } : { reason };
      const plan = await post(`/ops/plans/${state.plan.plan_id}/run`, content, { deadline_ms: ASK_DEADLINE_MS });
      if (alive.current) show(plan, { secret: plan.secret ?? null });
    } catch (problem) {
      if (!alive.current) return;
      if (problem.status === 422) setState((before) => ({ ...before, step: "ready", problem }));
      else fail(problem);
    }
  };
  const expire = useCallback(() => fail(expired()), [fail]);
  return { ...state, ask, run, expire };
}

/** Read a plan that is queued or running again until it has ended; a read that fails is tried again. */
function useFollowed({ step, plan }, show) {
  const planId = step === "running" ? plan.plan_id : null;
  useEffect(() => {
    if (!planId) return undefined;
    const timer = setInterval(async () => {
      try {
        const next = await get(`/ops/plans/${planId}`);
        if (timer) show(next);
      } catch {
        // The dot in the header says that the API does not answer; the next round reads it again.
      }
    }, POLL_MS);
    return () => clearInterval(timer);
  }, [planId, show]);
}

const STEPS = { ready: "ready", queued: "running", running: "running", done: "done", failed: "failed", expired: "stale" };

function stepOf(plan) {
  if (plan.outcome_code === NOTHING) return "nothing";
  if (plan.state === "failed" && STALE.has(plan.outcome_code)) return "stale";
  return STEPS[plan.state] ?? "ready";
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const notPlanned = () =>
  new Problem({ code: "deadline", sentence: "The job runner has not computed this plan within two minutes. Is `membership jobs run` alive?" });

const expired = () => new Problem({ code: "plan_expired", sentence: "This plan has expired: what it counted may be different now." });
