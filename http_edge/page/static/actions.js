// What can be done with a job: draw it again, vary it, go on from its picture, take it away; and its request for programs.

import { FINAL, blobOf, call, getKey, jobPath, mediaUrl, upload } from './api.js';
import { h, icon } from './dom.js';
import { problem, t } from './i18n.js';
import { knownModels, loadModels, modelOf } from './models.js';
import { intoDraft, requestOf } from './request.js';
import { asCommand, asCurl, asPython } from './snippets.js';
import { draft, pins } from './state.js';

/** Put a job into the form, to draw it again or vary it. */
async function reuse(job, seed) {
  if (!knownModels()) await loadModels();
  intoDraft(draft, job.spec, modelOf(job.spec.model), { seed });
}

/** Take a job's picture, or the frame that its clip shows, as the first picture. Throws `ApiError`. */
async function asFirstPicture(job, index, video) {
  let blob;
  if (video) {
    const canvas = h('canvas', { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext('2d').drawImage(video, 0, 0);
    blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
  } else {
    blob = await blobOf(job.artefacts[index].url.replace(/^\//, ''));
  }
  const file = new File([blob], `${job.id}.png`, { type: 'image/png' });
  draft.inputs = { ...draft.inputs, image: [{ id: await upload(file), name: file.name, file }] };
  draft.prompt ||= job.spec?.prompt || '';
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = t('create.copied');
  } catch {
    // Without https there is no clipboard: the text is selected instead.
    getSelection().selectAllChildren(button.closest('.snippet').querySelector('pre'));
  }
}

/** A request as curl, Python and the command, each to be copied. */
export function snippets(fields) {
  const base = new URL('.', location.href).href;
  const texts = [['curl', asCurl(fields, base, Boolean(getKey()))], ['Python', asPython(fields, base)], ['zoetrope', asCommand(fields, base)]];
  return texts.map(([name, text]) => h('div', { class: 'snippet' },
    h('div', { class: 'line' }, h('strong', null, name), h('button', { type: 'button', class: 'quiet', onclick: (event) => copy(text, event.currentTarget) }, t('create.copy'))),
    h('pre', { tabindex: 0, 'aria-label': name }, text)));
}

/** The request that draws a job again, to be shown when it is asked for. */
export function requestBoxOf(job) {
  const box = h('details', { class: 'request', ontoggle: async () => {
    if (!box.open || box.childElementCount > 1) return;
    if (!knownModels()) await loadModels();
    const model = modelOf(job.spec.model);
    const wanted = { ...draft, previews: false, sketch: false };
    intoDraft(wanted, job.spec, model, { seed: true });
    if (model) box.append(...snippets(requestOf(wanted, model)));
  } }, h('summary', null, t('create.request')));
  return box;
}


const act = (name, label, onclick, props) => h('button', { type: 'button', class: 'quiet', onclick, ...props }, icon(name), label);

/** Buttons that make something new of a job: with `again` the same seed, too. `done()` is called when the form has it; `say(words, bad)` tells of errors. */
export function makeButtons(job, { index = 0, video = null, again = false, say, done }) {
  const file = job.artefacts?.[index];
  const then = (work) => async () => {
    try {
      await work();
      done();
    } catch (error) {
      say(problem(error), true);
    }
  };
  return [
    job.spec && again && act('again', t('view.again'), then(() => reuse(job, true))),
    job.spec && act('vary', t('view.vary'), then(() => reuse(job, false))),
    file && act('picture', t('view.first'), then(() => asFirstPicture(job, index, video))),
  ];
}

/** A link that saves a file of a job, or null where there is none. */
export function downloadLink(job, index = 0) {
  const file = job.artefacts?.[index];
  if (!file) return null;
  const name = `${job.id}${job.artefacts.length > 1 ? `-${index}` : ''}${file.name.slice(file.name.lastIndexOf('.'))}`;
  const link = h('a', { class: 'button quiet', download: name }, icon('download'), t('view.download'));
  mediaUrl(file.url).then((address) => (link.href = address), () => {});
  return link;
}

/** Buttons that keep a job, or end it for good: `redraw()` when its pin has changed, `gone()` when it is deleted. */
export function keepButtons(job, { say, sure, redraw, gone }) {
  if (!FINAL.has(job.state)) return [];
  const pinned = pins.get().includes(job.id);
  const setPin = async () => {
    try {
      await call(`${jobPath(job.id)}/pin`, { method: pinned ? 'DELETE' : 'PUT' });
    } catch (error) {
      return say(problem(error), true);
    }
    pins.set(pinned ? pins.get().filter((one) => one !== job.id) : [job.id, ...pins.get()]);
    if (!pinned) say(t('view.pinned'));
    return redraw();
  };
  const remove = async () => {
    if (!(await sure(t('view.delete.sure')))) return;
    try {
      await call(`${jobPath(job.id)}?purge=true`, { method: 'DELETE' });
    } catch (error) {
      say(problem(error), true);
      return;
    }
    pins.set(pins.get().filter((one) => one !== job.id));
    say(t('view.deleted'));
    gone();
  };
  return [
    act('star', t(pinned ? 'view.unpin' : 'view.pin'), setPin, { 'aria-pressed': String(pinned), 'data-act': 'pin' }),
    act('trash', t('view.delete'), remove, { 'data-act': 'delete' }),
  ];
}
