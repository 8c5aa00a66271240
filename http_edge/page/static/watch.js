// Jobs as they go: a live card of one, with a bar that only grows, previews, and cancel; and the list of all that wait or run.

import { FINAL, LIVE, call, follow, jobPath, listJobs, show } from './api.js';
import { h, icon, iconButton } from './dom.js';
import { duration, failure, known, problem, t } from './i18n.js';
import { every, liveJobs } from './state.js';

const step = (job) => (job.total ? t('watch.step', { step: job.step, total: job.total }) : '');

/** What a job does now, in words. */
export function standing(job) {
  if (job.set_aside) return t('watch.aside', { reason: job.set_aside.reason });
  if (job.cancel_requested && !FINAL.has(job.state)) return t('watch.cancelling');
  if (job.parking?.requested) return t('watch.pausing');
  if (job.state === 'parked') return `${known(`parked.${job.parking?.reason}`, t('state.parked'))}${job.kept ? ` · ${t('watch.step', { step: job.kept, total: job.spec?.num_inference_steps ?? '' })}` : ''}`;
  if (job.state === 'queued') {
    const place = job.position ? t('watch.position', { count: job.position }) : t('watch.next');
    return `${known('state.queued', job.state)} · ${place}`;
  }
  if (job.state === 'running') return [known(`phase.${job.phase}`, t('state.running')), job.phase === 'denoise' ? step(job) : '', job.attempts > 1 ? t('watch.attempt', { count: job.attempts }) : ''].filter(Boolean).join(' · ');
  return known(`state.${job.state}`, job.state);
}

/** A picture or a clip of a finished job, as large as there is room. */
export function resultMedia(job, index = 0, props = {}) {
  const file = job.artefacts[index];
  if (!file) return null;
  const label = job.spec?.prompt || job.id;
  const node = file.media_type.startsWith('video/')
    ? h('video', { class: 'media', loop: true, muted: true, playsInline: true, autoplay: true, 'aria-label': label, ...props })
    : h('img', { class: 'media', alt: label, ...props });
  show(node, file.url);
  return node;
}

/** The stage: one job as large as there is room, followed until it is over. Returns {node, end}. `onEnd(job)` when it is over; `acts(job, video)`: buttons below a result. */
export function stage(first, { onOpen, onEnd, acts }) {
  let job = first;
  let grown = 0;
  let cancelledAt = 0;
  let ranWhenCancelled = false;
  let etaAt = performance.now();
  const picture = h('div', { class: 'frame' });
  const status = h('p', { class: 'status', role: 'status' });
  const eta = h('span', { class: 'soft' });
  const bar = h('div', { class: 'bar', role: 'progressbar', 'aria-label': t('watch.progress'), 'aria-valuemin': 0, 'aria-valuemax': 100 }, h('span'));
  const cancel = h('button', { type: 'button', class: 'quiet', onclick: stopIt }, icon('close'), t('watch.cancel'));
  const hold = h('button', { type: 'button', class: 'quiet', onclick: () => ask(holdAction()) });
  const told = h('div', { class: 'told' });
  const prompt = h('p', { class: 'prompt clamp' }, job.spec?.prompt || '');
  const node = h('section', { class: 'stage', 'data-job': job.id, 'data-state': job.state }, picture, h('div', { class: 'under' }, prompt, h('div', { class: 'line' }, status, eta, h('div', { class: 'acts' }, hold, cancel)), bar, told));

  function stopIt() {
    cancelledAt = performance.now();
    ranWhenCancelled = job.state === 'running';
    return ask('cancel');
  }

  /** What the other button does now. */
  function holdAction() {
    if (job.state !== 'parked') return 'pause';
    return job.parking?.reason === 'draft' ? 'commit' : 'resume';
  }

  async function ask(action) {
    cancel.disabled = hold.disabled = true;
    told.replaceChildren();
    try {
      const { job: after } = await call(`${jobPath(job.id)}/${action}`, { method: 'POST' });
      change(after);
    } catch (error) {
      if (action === 'cancel') cancelledAt = 0;
      draw();
      told.replaceChildren(h('p', { class: 'bad', role: 'alert' }, problem(error)));
    }
  }

  function change(news) {
    if (FINAL.has(job.state) && job.state === news.state && job.artefacts && !news.artefacts) return;
    job = { ...job, ...news };
    etaAt = performance.now();
    draw();
    if (FINAL.has(job.state)) onEnd?.(job);
  }

  function draw() {
    const over = FINAL.has(job.state);
    node.dataset.state = job.state;
    grown = Math.max(grown, job.progress || 0);
    bar.firstChild.style.width = `${grown}%`;
    bar.setAttribute('aria-valuenow', grown);
    bar.classList.toggle('waiting', job.state === 'queued' || job.state === 'assigned');
    bar.hidden = over;
    cancel.hidden = hold.hidden = over;
    cancel.disabled = cancelledAt > 0 || Boolean(job.cancel_requested);
    hold.disabled = cancel.disabled || Boolean(job.parking?.requested);
    hold.replaceChildren(icon(holdAction() === 'pause' ? 'pause' : 'play'), t(`watch.${holdAction()}`));
    prompt.textContent = job.spec?.prompt || prompt.textContent;
    if (status.textContent !== standing(job)) status.textContent = standing(job);
    tick();
    if (job.state === 'succeeded') finished();
    else if (job.state === 'failed') failed();
    else if (job.state === 'cancelled') cancelled();
    else drawing();
  }

  function drawing() {
    if (!job.preview) {
      if (!picture.firstChild || !picture.querySelector('img')) {
        if (!picture.querySelector('.slits')) picture.replaceChildren(h('div', { class: 'slits', 'aria-hidden': 'true' }, ...Array.from({ length: 9 }, () => h('i'))));
      }
      return;
    }
    const there = picture.querySelector('img.preview');
    const path = job.preview.replace(/^\//, '');
    if (there) show(there, path);
    else {
      const image = h('img', { class: 'media preview', alt: t('watch.preview') });
      show(image, path);
      picture.replaceChildren(image);
    }
  }

  function finished() {
    if (picture.dataset.done || !job.artefacts) return;
    picture.dataset.done = '1';
    picture.replaceChildren(h('button', { type: 'button', class: 'bare', 'aria-label': t('view.details'), onclick: () => onOpen(job) }, resultMedia(job)));
    const took = job.timings?.run_s;
    status.textContent = took ? `${t('state.succeeded')} · ${t('watch.took', { time: duration(took) })}` : t('state.succeeded');
    const buttons = acts ? [h('div', { class: 'actions' }, acts(job, picture.querySelector('video')))] : [];
    told.replaceChildren(...buttons, ...warnings(job));
  }

  function failed() {
    const [advice, words] = failure(job.error || { code: '', message: '' });
    picture.replaceChildren(h('div', { class: 'sorry' }, icon('close')));
    told.replaceChildren(h('div', { class: 'bad', role: 'alert' }, h('strong', null, advice), h('p', { class: 'mono' }, words)));
  }

  function cancelled() {
    // How far it had come is still to be seen.
    if (picture.querySelector('img.preview')) picture.classList.add('over');
    else picture.replaceChildren(h('div', { class: 'sorry' }, icon('close')));
    if (cancelledAt && ranWhenCancelled) status.textContent = t('watch.freed', { time: duration((performance.now() - cancelledAt) / 1000) });
    cancelledAt = 0;
  }

  function tick() {
    const left = job.eta_s === null || job.eta_s === undefined || FINAL.has(job.state) ? -1 : job.eta_s - (performance.now() - etaAt) / 1000;
    eta.textContent = left > 0.5 ? t('watch.eta', { time: duration(left) }) : '';
  }

  draw();
  const timer = setInterval(tick, 500);
  const unfollow = FINAL.has(job.state) ? () => {} : follow(job.id, change, () => node.remove());
  return {
    node,
    end() {
      clearInterval(timer);
      unfollow();
    },
  };
}

/** A job's notes, if it has any. */
export const warnings = (job) =>
  job.warnings?.length ? [h('details', { class: 'notes' }, h('summary', null, t('view.warnings')), h('ul', null, job.warnings.map((text) => h('li', null, text))))] : [];

/** Seconds for which submitted jobs are believed to be in the queue, whatever the pool says. */
const EXPECTED_MS = 6000;

/** All jobs that wait or run, asked for now and then, of which `onLook(jobs)` is told. Returns {end, expect, mark}: `expect(jobs)` shows those just submitted at once. */
export function liveList(root, { onPick, picked, onLook }) {
  let expectedUntil = 0;
  const rows = new Map();
  const list = h('ul', { class: 'rows', 'aria-label': t('create.yours') });
  const quiet = h('p', { class: 'soft' }, t('watch.quiet'));
  root.replaceChildren(list, quiet);

  function row(job) {
    const words = h('span', { class: 'soft' });
    const bar = h('span', { class: 'thin' }, h('span'));
    const pick = h('button', { type: 'button', class: 'bare pick', onclick: () => onPick(rows.get(job.id).job) }, h('span', { class: 'clamp' }, job.spec?.prompt || job.id), words, bar);
    const stop = iconButton('close', t('watch.cancel'), () => {
      stop.disabled = true;
      call(`${jobPath(job.id)}/cancel`, { method: 'POST' }).catch(() => (stop.disabled = false));
    });
    return { node: h('li', null, pick, stop), words, bar, pick, grown: 0, job };
  }

  function draw(jobs) {
    const seen = new Set(jobs.map((job) => job.id));
    for (const [id, one] of rows) {
      if (!seen.has(id)) {
        one.node.remove();
        rows.delete(id);
      }
    }
    for (const job of jobs) {
      const one = rows.get(job.id) || row(job);
      rows.set(job.id, one);
      one.job = job;
      one.grown = Math.max(one.grown, job.progress);
      one.bar.firstChild.style.width = `${one.grown}%`;
      one.words.textContent = standing(job);
      one.pick.setAttribute('aria-current', job.id === picked() ? 'true' : 'false');
      if (one.node.parentNode !== list) list.append(one.node);
    }
    quiet.hidden = jobs.length > 0;
  }

  // An empty queue is not asked for: that the pool is asked about now and then says when there is something.
  const end = every(1.5, async () => {
    const empty = liveJobs() === 0 && performance.now() > expectedUntil;
    const jobs = empty ? [] : (await listJobs({ state: LIVE, limit: 50, order: 'asc' })).data;
    draw(jobs);
    onLook(jobs);
  });
  return {
    end,
    mark: () => rows.forEach((one, id) => one.pick.setAttribute('aria-current', String(id === picked()))),
    expect(jobs) {
      expectedUntil = performance.now() + EXPECTED_MS;
      const had = [...rows.values()].map((one) => one.job);
      draw([...had, ...jobs.filter((job) => !rows.has(job.id))]);
    },
  };
}
