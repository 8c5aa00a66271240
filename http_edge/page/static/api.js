// The service's API: requests with the key, errors as values, event streams that go on after a broken connection, media.

import { online, pool } from './state.js';

const KEY = 'zoetrope.key';
const TIMEOUT_MS = 30_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;

export const FINAL = new Set(['succeeded', 'failed', 'cancelled']);
export const LIVE = 'queued,delayed,assigned,running,parked';

/** An answer that is an error, or none: then `status` is 0. */
export class ApiError extends Error {
  constructor(status, error = {}) {
    super(error.message || '');
    this.status = status;
    this.code = error.code || (status ? `http_${status}` : 'offline');
    /** The class of the error; what is between page and service, as a proxy, tells of none. */
    this.type = error.type || (status >= 500 ? 'server_error' : status ? 'invalid_request_error' : '');
    this.param = error.param || '';
    this.retryAfter = error.retryAfter || 0;
  }
}

let askForKey = null;
let asking = null;

/** `ask(wrong)` shows the sign-in and resolves when a key was given. */
export const whenKeyNeeded = (ask) => (askForKey = ask);

export function getKey() {
  return sessionStorage.getItem(KEY) || '';
}

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  forgetMedia();
}

const sleep = (ms, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
  });

/** The answer to a request, whatever its status but 401, which asks for a key first. Throws `ApiError` when there is none. */
async function send(path, { method = 'GET', headers = {}, body, signal, patient = false } = {}) {
  for (;;) {
    const key = getKey();
    const sent = key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
    const limit = patient ? [] : [AbortSignal.timeout(TIMEOUT_MS)];
    let answer;
    try {
      answer = await fetch(path, { method, headers: sent, body, signal: AbortSignal.any([...limit, ...(signal ? [signal] : [])]) });
    } catch (error) {
      if (signal?.aborted) throw error;
      online.set(false);
      throw new ApiError(0);
    }
    online.set(!poolAway);
    if (answer.status !== 401 || !askForKey) return answer;
    // Several requests may be refused at once: they wait for the same key.
    if (getKey() === key) {
      asking ??= askForKey(Boolean(key)).finally(() => (asking = null));
      await asking;
    }
  }
}

async function errorOf(answer) {
  let said = {};
  try {
    said = (await answer.json()).error || {};
  } catch {}
  return new ApiError(answer.status, { ...said, retryAfter: Number(answer.headers.get('Retry-After')) || 0 });
}

/** The JSON of a good answer. Throws `ApiError`. */
export async function call(path, options) {
  const answer = await send(path, options);
  if (!answer.ok) throw await errorOf(answer);
  return answer.json();
}

export const post = (path, value, headers = {}) =>
  call(path, { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: value && JSON.stringify(value) });

/** A page of jobs; empty filters are left out. */
export function listJobs(filters) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value !== '' && value !== undefined && value !== null));
  return call(`v1/jobs?${query}`);
}

let poolAt = -Infinity;
/** Whether the service answers without knowing its pool: what it serves without that, as files, says nothing of jobs. */
let poolAway = false;

/** Ask for workers and queue, unless that was done in the last `fresh` milliseconds. */
export async function lookAtPool(fresh = 0) {
  if (performance.now() - poolAt < fresh) return;
  poolAt = performance.now();
  try {
    const found = await call('v1/workers');
    poolAway = false;
    online.set(true);
    pool.set(found);
  } catch (error) {
    if (error.status) poolAway = error.status >= 500;
    if (poolAway) online.set(false);
    throw error;
  }
}

export const jobPath = (id) => `v1/jobs/${encodeURIComponent(id)}`;

/** Keep a file on the service; its id. Throws `ApiError`. */
export async function upload(file) {
  const form = new FormData();
  form.append('purpose', 'vision');
  form.append('file', file, file.name || 'picture.png');
  return (await call('v1/files', { method: 'POST', body: form, patient: true })).id;
}

/** What a result's file was drawn with. Throws `ApiError`. */
export async function readRecipe(file) {
  const form = new FormData();
  form.append('file', file, file.name || 'result');
  return call('v1/recipe', { method: 'POST', body: form, patient: true });
}

// ---------------------------------------------------------------- events

/** The events of a stream: {event, id, data}. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split('\n')) {
        const colon = line.indexOf(':');
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      if (fields.data) yield { event: fields.event, id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}

/** Tell `onChange` of each change of a job until it is over, over broken connections; `onGone` when there is no such job. Returns what ends it. */
export function follow(id, onChange, onGone = () => {}) {
  const stop = new AbortController();
  const run = async () => {
    let last = '';
    let pause = FIRST_PAUSE_MS;
    while (!stop.signal.aborted) {
      try {
        const answer = await send(`${jobPath(id)}/events`, {
          headers: last ? { 'Last-Event-ID': last } : {}, signal: stop.signal, patient: true,
        });
        if (answer.status === 404) return onGone();
        if (answer.status === 204) return onChange(await call(jobPath(id)));
        if (answer.ok) {
          for await (const { id: seen, data } of eventsOf(answer.body)) {
            pause = FIRST_PAUSE_MS;
            last = seen || last;
            onChange(data);
            if (FINAL.has(data.state)) return;
          }
        }
      } catch (error) {
        if (stop.signal.aborted) return;
        if (!(error instanceof ApiError)) online.set(false);
      }
      await sleep(pause * (0.75 + Math.random() / 2), stop.signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  };
  run();
  return () => stop.abort();
}

/** Ask until the service answers again. */
export async function waitOnline() {
  for (let pause = FIRST_PAUSE_MS; !online.get(); pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    await sleep(pause);
    try {
      await lookAtPool();
    } catch {}
  }
}

// ---------------------------------------------------------------- media

/** Path -> promise of its address in memory, the least lately used first: with a key media cannot be asked for by their address alone. */
const media = new Map();
const MEDIA_KEPT = 80;

function forgetMedia() {
  for (const address of media.values()) address.then(URL.revokeObjectURL, () => {});
  media.clear();
}

/** The bytes at a path. Throws `ApiError`. */
export async function blobOf(path) {
  const answer = await send(path, { patient: true });
  if (!answer.ok) throw await errorOf(answer);
  return answer.blob();
}

/** What to show a picture or clip by: its path, or with a key an address of its bytes in memory. */
export function mediaUrl(path) {
  path = path.replace(/^\//, '');
  if (!getKey()) return Promise.resolve(path);
  let address = media.get(path);
  media.delete(path);
  address ??= blobOf(path).then(URL.createObjectURL);
  media.set(path, address);
  address.catch(() => media.delete(path));
  for (const [oldest, old] of media) {
    if (media.size <= MEDIA_KEPT) break;
    media.delete(oldest);
    old.then(URL.revokeObjectURL, () => {});
  }
  return address;
}

/** Show what is at a path in an element with `src`. */
export async function show(node, path) {
  node.dataset.path = path;
  try {
    const address = await mediaUrl(path);
    if (node.dataset.path === path) node.src = address;
  } catch {}
}
