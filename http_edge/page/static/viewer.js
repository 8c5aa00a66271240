// One job, alone and large: play, step through frames, and what can be done with it next.

import { downloadLink, keepButtons, makeButtons, requestBoxOf } from './actions.js';
import { ApiError, FINAL, call, jobPath } from './api.js';
import { h, icon, iconButton } from './dom.js';
import { duration, known, language, moment, number, problem, t } from './i18n.js';
import { pins } from './state.js';
import { resultMedia, stage, warnings } from './watch.js';

const fact = (label, value) => (value === null || value === undefined || value === '' ? null : h('div', { class: 'fact' }, h('dt', null, label), h('dd', null, value)));

function facts(job) {
  const { spec } = job;
  if (!spec) return [];
  const file = job.artefacts[0];
  return [
    fact(t('create.model'), spec.model),
    fact(t('create.size'), `${spec.width} × ${spec.height}`),
    spec.output === 'video' ? fact(t('create.length'), t('create.frames', { frames: file?.num_frames || spec.num_frames, seconds: number((file?.num_frames || spec.num_frames) / spec.fps, 1) })) : null,
    fact(t('create.steps'), spec.num_inference_steps),
    fact(t('create.guidance'), spec.guidance_scale),
    fact(t('create.seed'), String(spec.seed)),
    fact(t('create.preset'), spec.preset),
    fact(t('create.loras'), spec.loras.map(({ name, scale }) => `${name} ${number(scale, 2)}`).join(', ')),
    fact(t('create.negative'), spec.negative_prompt),
    fact(t('view.submitted'), moment(job.submitted_at)),
    fact(t('view.waited'), job.timings.queued_s === null ? '' : duration(job.timings.queued_s)),
    fact(t('view.ran'), job.timings.run_s === null ? '' : duration(job.timings.run_s)),
    fact(t('view.worker'), job.worker),
    fact(t('view.expires'), job.expires_at && !pins.get().includes(job.id) ? moment(job.expires_at) : ''),
    h('div', { class: 'wide' }, fact(t('view.job'), h('code', null, job.id))),
  ];
}

const history = (job) => (job.history?.length ? h('details', null, h('summary', null, t('view.history')), h('ol', { class: 'history' }, job.history.map((move) =>
  h('li', null, h('time', null, new Date(1000 * move.at).toLocaleTimeString(language.get())), ` ${known(`state.${move.to}`, move.to)} · ${[known(`cause.${move.cause}`, move.cause), move.worker, move.note].filter(Boolean).join(' · ')}`)))) : '');

function player(video, fps) {
  const play = iconButton('pause', t('view.pause'), () => (video.paused ? video.play() : video.pause()));
  const told = () => {
    const word = video.paused ? 'play' : 'pause';
    play.replaceChildren(icon(word));
    play.setAttribute('aria-label', t(`view.${word}`));
    play.title = t(`view.${word}`);
  };
  video.addEventListener('play', told);
  video.addEventListener('pause', told);
  const step = (frames) => {
    video.pause();
    const length = video.duration || 0;
    const at = Math.round(video.currentTime * fps) + frames;
    // The middle of a frame: its edge may show the one before.
    video.currentTime = Math.min(Math.max(0, (at + 0.5) / fps), Math.max(0, length - 0.5 / fps));
  };
  const loop = iconButton('loop', t('view.loop'), () => {
    video.loop = !video.loop;
    loop.setAttribute('aria-pressed', String(video.loop));
  }, { 'aria-pressed': 'true' });
  const place = h('input', { type: 'range', min: 0, max: 1000, value: 0, 'aria-label': t('create.length'), oninput: () => ((video.currentTime = (place.value / 1000) * video.duration), video.pause()) });
  video.addEventListener('timeupdate', () => video.duration && (place.value = (1000 * video.currentTime) / video.duration));
  return { step, toggle: () => play.click(), node: h('div', { class: 'player' }, iconButton('back', t('view.back'), () => step(-1)), play, iconButton('forward', t('view.forward'), () => step(1)), loop, place) };
}

/** Show a job in a dialog. `go(view)` changes the view; `onClose` is told when it closes, `onDelete` when the job is gone. */
export async function openViewer(id, { go, say, sure, onClose, onDelete }) {
  const body = h('div', { class: 'viewer' });
  const dialog = h('dialog', { class: 'sheet', 'aria-label': t('view.details') }, body);
  let keys = () => {};
  let ends = [];
  const close = () => dialog.close();
  dialog.addEventListener('close', () => {
    ends.forEach((end) => end());
    dialog.remove();
    onClose();
  });
  dialog.addEventListener('click', (event) => event.target === dialog && close());
  dialog.addEventListener('keydown', (event) => keys(event));
  document.body.append(dialog);
  dialog.showModal();
  const title = h('h2', { class: 'prompt grow' });
  const head = h('div', { class: 'head' }, title, iconButton('close', t('view.close'), close));

  async function draw() {
    let job;
    try {
      job = await call(jobPath(id));
    } catch (error) {
      const gone = error instanceof ApiError && error.status === 404;
      body.replaceChildren(head, h('p', { class: 'bad', role: 'alert' }, gone ? t('view.gone') : problem(error)));
      return;
    }
    if (!FINAL.has(job.state) || job.state !== 'succeeded') {
      const live = stage(job, { onOpen: draw, onEnd: (over) => over.state === 'succeeded' && draw() });
      ends.push(live.end);
      body.replaceChildren(head, live.node, actions(job, 0, null), h('dl', { class: 'facts' }, facts(job)), history(job));
      return;
    }
    showResult(job, 0);
  }

  function showResult(job, index) {
    title.textContent = job.spec?.prompt || '';
    const media = resultMedia(job, index);
    const video = media.tagName === 'VIDEO' ? media : null;
    const controls = video && player(video, job.artefacts[index].fps || job.spec.fps);
    keys = (event) => {
      if (!controls || event.target.matches('input, button, summary, a') && event.key === ' ') return;
      if (event.key === ' ') controls.toggle();
      else if (event.key === 'ArrowLeft' && !event.target.matches('input')) controls.step(-1);
      else if (event.key === 'ArrowRight' && !event.target.matches('input')) controls.step(1);
      else return;
      event.preventDefault();
    };
    const others = job.artefacts.length > 1
      ? h('div', { class: 'chips' }, job.artefacts.map((_, at) => h('button', { type: 'button', class: 'chip', 'aria-pressed': String(at === index), onclick: () => showResult(job, at) }, t('view.output', { number: at + 1 }))))
      : null;
    body.replaceChildren(head, h('div', { class: 'frame' }, media), controls ? controls.node : '', others || '',
      actions(job, index, video), ...warnings(job), h('dl', { class: 'facts' }, facts(job)), job.spec ? requestBoxOf(job) : '', history(job));
  }

  function actions(job, index, video) {
    const done = () => (close(), go('create'));
    const row = h('div', { class: 'actions' }, makeButtons(job, { index, video, again: true, say, done }), downloadLink(job, index), keepButtons(job, {
      say, sure,
      redraw: () => {
        const fresh = actions(job, index, video);
        row.replaceWith(fresh);
        fresh.querySelector('[data-act=pin]').focus();
      },
      // Closed first: the focus is given back to what is then gone.
      gone: () => (close(), onDelete(job.id)),
    }));
    return row;
  }

  body.replaceChildren(head, h('p', { class: 'soft' }, '…'));
  await draw();
}
