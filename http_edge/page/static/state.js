// Values that are watched: the few things that several parts of the page share.

/** A value with listeners: `get`, `set`, and `watch`, which returns what ends it. */
export function cell(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(next) {
      if (next === value) return;
      value = next;
      for (const tell of [...listeners]) tell(value);
    },
    watch(tell) {
      listeners.add(tell);
      return () => listeners.delete(tell);
    },
  };
}

/** A value that this browser keeps; a browser that keeps nothing forgets it. */
export function kept(name, fallback) {
  let first = fallback;
  try {
    first = JSON.parse(localStorage.getItem(name)) ?? fallback;
  } catch {}
  const one = cell(first);
  one.watch((value) => {
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {}
  });
  return one;
}

/** Whether the service answers. */
export const online = cell(true);
/** Ids of pinned jobs. */
export const pins = kept('zoetrope.pins', []);
/** "", "light" or "dark". */
export const theme = kept('zoetrope.theme', '');
/** The newest answer about workers and queue; null before the first. */
export const pool = cell(null);

/** How many jobs wait, run or are paused; null before it is known. */
export function liveJobs() {
  const counts = pool.get()?.queue.counts;
  return counts ? counts.queued + counts.delayed + counts.assigned + counts.running + (counts.parked || 0) : null;
}

/** What changes whenever a job has ended; '' before it is known. */
export function endedJobs() {
  const found = pool.get();
  return found ? ['succeeded', 'failed', 'cancelled'].map((state) => found.queue.counts[state]).concat(found.epoch).join() : '';
}

/** What the form holds; null: the model's own. It outlives a change of view. */
export const draft = {
  model: '', output: '', prompt: '', negative: '', width: null, height: null, frames: null, steps: null, guidance: null,
  seed: '', count: 1, preset: '', cache: '', loras: {}, inputs: {}, previews: true, sketch: false,
};

/** Call `work` every so many seconds (or as the function `seconds` says) while the page is seen; returns what ends it. `work` may be slow: it is never called twice at once. */
export function every(seconds, work) {
  let timer, ended = false;
  const turn = async () => {
    if (ended) return;
    if (!document.hidden) {
      try {
        await work();
      } catch {}
    }
    if (!ended) timer = setTimeout(turn, 1000 * (typeof seconds === 'function' ? seconds() : seconds));
  };
  const seen = () => {
    if (!document.hidden && !ended) {
      clearTimeout(timer);
      turn();
    }
  };
  document.addEventListener('visibilitychange', seen);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', seen);
  };
}
