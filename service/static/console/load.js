// Reads a path of the API for a component, and reads it again when the live connection says that it changed.
import { get } from "./api.js";
import { onChanged } from "./live.js";
import { useCallback, useEffect, useRef, useState } from "./ui.js";

const NOTHING = { answer: null, problem: null, loading: true, path: null };

/** Return `{answer, problem, loading, reload}`; `changedBy` names the changes that make the answer old.
 *
 * While a path is read again the last answer stays; if that fails, `problem` is set beside it.
 */
export function useLoad(path, changedBy = []) {
  const [state, setState] = useState(NOTHING);
  const running = useRef(null);
  const reload = useCallback(() => {
    running.current?.abort();
    if (path === null) return;
    const controller = new AbortController();
    running.current = controller;
    setState((before) => (before.path === path ? { ...before, loading: true } : { ...NOTHING, path }));
    get(path, { signal: controller.signal }).then(
      (answer) => controller.signal.aborted || setState({ answer, problem: null, loading: false, path }),
      (problem) => controller.signal.aborted || setState((before) => ({ ...before, problem, loading: false, path })),
    );
  }, [path]);
  useEffect(() => {
    reload();
    return () => running.current?.abort();
  }, [reload]);
  const watched = changedBy.join(" ");
  useEffect(
    () => onChanged((what) => (what === "all" || watched.split(" ").includes(what)) && reload()),
    [reload, watched],
  );
  return { ...(state.path === path ? state : { ...NOTHING, path }), reload };
}

/** Like `useLoad`, for a list with cursors: `more()` appends the next page, `rows` is all that was read. */
export function usePages(pathOfPage, rowsOf, changedBy = []) {
  const first = useLoad(pathOfPage(undefined), changedBy);
  const [later, setLater] = useState({ of: null, pages: [], loading: false, problem: null });
  const pages = later.of === first.answer ? later.pages : [];
  const last = pages.at(-1) ?? first.answer;
  const more = async () => {
    setLater({ of: first.answer, pages, loading: true, problem: null });
    try {
      const page = await get(pathOfPage(last.next_cursor));
      setLater({ of: first.answer, pages: [...pages, page], loading: false, problem: null });
    } catch (problem) {
      setLater({ of: first.answer, pages, loading: false, problem });
    }
  };
  return {
    ...first,
    rows: [first.answer, ...pages].filter(Boolean).flatMap(rowsOf),
    hasMore: last?.next_cursor !== undefined && last?.next_cursor !== null,
    more,
    moreLoading: later.loading,
    moreProblem: later.of === first.answer ? later.problem : null,
  };
}
