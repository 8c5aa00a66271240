// The form: a prompt and Enter is enough; everything else is the model's own until it is changed.

import { downloadLink, makeButtons, snippets } from './actions.js';
import { FINAL, LIVE, call, jobPath, listJobs, lookAtPool, mediaUrl, post, readRecipe, show, upload } from './api.js';
import { h, icon, iconButton, newId } from './dom.js';
import { number, problem, t } from './i18n.js';
import { knownModels, loadModels, modelOf } from './models.js';
import { frameChoices, intoDraft, requestKey, requestOf, roles, rollSeed, sizes, stepBound } from './request.js';
import { draft } from './state.js';
import { liveList, stage, standing } from './watch.js';

const EXAMPLES = ['a red circle moving right', 'a blue square on a white background', 'a green triangle moving up'];
const MAX_COUNT = 10;
const MAX_REFERENCES = 15;

function field(label, control, note) {
  const id = control.id || (control.id = newId('field'));
  return h('div', { class: 'field' }, h('label', { for: id }, label), control, note);
}

function choice(label, options, value, onchange) {
  const select = h('select', { onchange: () => onchange(select.value) }, options.map(([name, words]) => h('option', { value: name, selected: name === value }, words)));
  return field(label, select);
}

function slider(label, { value, min, max, say, onchange }) {
  const words = h('output', { class: 'soft' }, say(value));
  const range = h('input', {
    type: 'range', min, max, step: 1, value,
    oninput: () => {
      words.textContent = say(Number(range.value));
      range.setAttribute('aria-valuetext', words.textContent);
      onchange(Number(range.value));
    },
  });
  range.value = value;
  range.setAttribute('aria-valuetext', words.textContent);
  return field(label, range, words);
}

/** A place for a file of one role: drop, paste, or choose. */
function dropPlace({ role, clip, several, needed }, redraw, tell) {
  const label = t(`role.${role}`);
  const held = draft.inputs[role] || [];
  const input = h('input', {
    type: 'file', accept: clip ? 'video/*' : 'image/*', multiple: several, class: 'unseen', 'aria-label': label, 'data-role': role,
    onchange: () => take([...input.files]),
  });

  async function take(files) {
    const most = several ? MAX_REFERENCES - held.length : 1;
    const fits = files.filter((file) => file.type.startsWith(clip ? 'video/' : 'image/')).slice(0, most);
    const left = files.find((file) => !fits.includes(file));
    if (left) tell({ message: t(fits.length === most ? 'drop.many' : clip ? 'drop.noclip' : 'drop.nopicture', { name: left.name }) });
    files = fits;
    if (!files.length) return;
    const entries = files.map((file) => ({ name: file.name, file, id: '' }));
    draft.inputs[role] = several ? [...held, ...entries] : entries;
    redraw();
    const sending = sendAll(entries);
    for (const entry of entries) entry.sent = sending;
  }

  /** Upload files; whether all arrived. */
  async function sendAll(entries) {
    let whole = true;
    for (const entry of entries) {
      try {
        entry.id = await upload(entry.file);
      } catch (error) {
        draft.inputs[role] = draft.inputs[role].filter((one) => one !== entry);
        tell(error);
        whole = false;
      }
    }
    redraw();
    return whole;
  }

  const shown = held.map((entry) => {
    const remove = iconButton('close', t('drop.remove', { name: label }), () => {
      draft.inputs[role] = held.filter((one) => one !== entry);
      redraw();
    });
    const picture = h(clip ? 'video' : 'img', { alt: entry.name, muted: true });
    if (entry.file) picture.src = URL.createObjectURL(entry.file);
    else mediaUrl(`v1/files/${entry.id}/content`).then((address) => (picture.src = address), () => {});
    picture.addEventListener(clip ? 'loadeddata' : 'load', () => entry.file && URL.revokeObjectURL(picture.src), { once: true });
    return h('div', { class: `held${entry.id ? '' : ' sending'}` }, picture, remove, entry.id ? null : h('span', null, t('drop.sending')));
  });
  const full = held.length && !several;
  const place = h('div', {
    class: 'drop',
    ondragover: (event) => (event.preventDefault(), place.classList.add('over')),
    ondragleave: () => place.classList.remove('over'),
    ondrop: (event) => (event.preventDefault(), place.classList.remove('over'), take([...event.dataTransfer.files])),
  }, shown, full ? null : h('label', null, input, icon('picture'), h('span', null, label), h('small', null, needed ? t('drop.needed') : t('drop.hint'))));
  place.take = take;
  return place;
}

/** Several jobs that were submitted together, as small pictures: {node, begin, look, mark}. `onPick(job)` shows one on the stage. */
function batchStrip({ onPick, picked }) {
  const node = h('ul', { class: 'strip', hidden: true, 'aria-label': t('create.batch') });
  let tiles = [];

  function draw(tile, job) {
    const changed = tile.job.state !== job.state;
    tile.job = { ...tile.job, ...job };
    tile.grown = Math.max(tile.grown, job.progress || 0);
    tile.bar.firstChild.style.width = `${tile.grown}%`;
    tile.button.setAttribute('aria-label', `${tile.number}: ${standing(tile.job)}`);
    tile.button.title = standing(tile.job);
    if (!changed || !FINAL.has(job.state)) return;
    tile.bar.hidden = true;
    if (job.state === 'succeeded') {
      const image = h('img', { alt: '' });
      show(image, `${jobPath(job.id)}/thumbnail`);
      tile.button.append(image);
    } else tile.button.append(icon('close'));
  }

  const mark = () => tiles.forEach((tile) => tile.button.setAttribute('aria-pressed', String(tile.job.id === picked())));
  return {
    node,
    mark,
    begin(jobs) {
      tiles = jobs.map((job, at) => {
        const bar = h('span', { class: 'thin' }, h('span'));
        const tile = { job, number: at + 1, bar, grown: 0 };
        tile.button = h('button', { type: 'button', class: 'quiet', onclick: () => onPick(tile.job) }, h('span', { class: 'number', 'aria-hidden': 'true' }, at + 1), bar);
        draw(tile, job);
        return tile;
      });
      node.replaceChildren(...tiles.map(({ button }) => h('li', null, button)));
      node.hidden = tiles.length < 2;
      mark();
    },
    /** Take news from all jobs that wait or run; what is no more among them is over. */
    look(jobs) {
      const found = new Map(jobs.map((job) => [job.id, job]));
      for (const tile of tiles.length > 1 ? tiles : []) {
        if (FINAL.has(tile.job.state)) continue;
        if (found.has(tile.job.id)) draw(tile, found.get(tile.job.id));
        else call(jobPath(tile.job.id)).then((job) => draw(tile, job), () => {});
      }
    },
  };
}

/** Draw the view into `root`; returns what ends it. `onOpen(job)` shows a job alone. */
export function createView(root, { onOpen, say, go }) {
  let current = null;
  let key = '';
  let ended = false;
  let places = [];
  let live = null;
  const settings = h('div', { class: 'settings' });
  const fault = h('div', { class: 'fault', role: 'alert' });
  const requestBox = h('details', { class: 'request', ontoggle: () => drawRequest() }, h('summary', null, t('create.request')));
  const scene = h('div', { class: 'scene' });
  const batch = batchStrip({ onPick: (job) => put(job), picked: () => current?.id });
  const queue = h('div', null);
  const prompt = h('textarea', {
    id: 'prompt', rows: 4, maxlength: 20000, placeholder: t('create.prompt.hint'), value: draft.prompt, 'aria-describedby': 'fault',
    oninput: () => ((draft.prompt = prompt.value), drawRequest()),
    onkeydown: (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    },
  });
  fault.id = 'fault';
  const notes = h('div', { class: 'notes', role: 'status' });
  const send = h('button', { type: 'submit', class: 'primary' }, icon('plus'), t('create.send'));
  // What is wrong is said by the service, in one place and the same words for Enter and the button.
  const elsewhere = (event) => event.dataTransfer.types.includes('Files') && !event.target.closest('.drop');
  const form = h('form', {
    class: 'panel', novalidate: true, onsubmit: (event) => (event.preventDefault(), submit()),
    ondragover: (event) => elsewhere(event) && (event.preventDefault(), form.classList.add('over')),
    ondragleave: () => form.classList.remove('over'),
    ondrop: (event) => elsewhere(event) && (event.preventDefault(), form.classList.remove('over'), fillFrom(event.dataTransfer.files[0])),
  },
    h('div', { class: 'field' }, h('label', { for: 'prompt' }, t('create.prompt')), prompt), fault, notes, send, settings, requestBox);

  root.replaceChildren(
    h('h1', { class: 'unseen' }, t('create.title')),
    h('div', { class: 'create' }, form, h('div', { class: 'watch' }, scene, batch.node, h('section', { class: 'panel' }, h('h2', null, t('create.yours')), queue))),
  );

  const tell = (error) => {
    fault.replaceChildren(h('p', { class: 'bad' }, problem(error)));
    const name = error.param === 'size' ? 'width' : error.param;
    const named = name && form.querySelector(`[data-field="${CSS.escape(name)}"]`);
    if (!named) return;
    const folded = named.closest('details');
    if (folded) folded.open = true;
    named.focus();
  };

  const set = (name, value) => {
    draft[name] = value;
    drawRequest();
  };

  /** Fill the form with what a result's file says that it was drawn with; what differs here, and what the form has no place for, is said. */
  async function fillFrom(file) {
    if (!file) return;
    fault.replaceChildren();
    notes.replaceChildren();
    try {
      if (!knownModels()) await loadModels();
      const { request, differences } = await readRecipe(file);
      const rest = intoDraft(draft, request, modelOf(request.model), { seed: true });
      prompt.value = draft.prompt;
      drawSettings();
      const told = rest.length ? [...differences, t('create.recipe.rest', { names: rest.join(', ') })] : differences;
      notes.replaceChildren(h('p', null, t('create.recipe.done')), told.length ? h('ul', null, told.map((text) => h('li', null, text))) : '');
    } catch (error) {
      tell(error);
    }
  }

  function drawSettings() {
    const model = modelOf(draft.model);
    if (!model) {
      settings.replaceChildren(knownModels() ? h('p', { class: 'bad' }, t('create.nomodel')) : h('p', { class: 'soft' }, '…'));
      return;
    }
    draft.model = model.id;
    if (!model.outputs.includes(draft.output)) draft.output = model.output;
    const places_ = roles(model).map((role) => dropPlace(role, drawSettings, tell));
    places = places_.map((place, at) => ({ place, clip: roles(model)[at].clip }));
    const more = h('details', { class: 'more', open: draft.more, ontoggle: () => (draft.more = more.open) }, h('summary', null, t('create.more')), h('div', { class: 'grid' }, moreSettings(model)));
    settings.replaceChildren(
      h('div', { class: 'grid' },
        choice(t('create.model'), knownModels().map(({ id }) => [id, id]), model.id, (id) => {
          Object.assign(draft, { model: id, output: '', width: null, height: null, frames: null, steps: null, guidance: null, preset: '', cache: '', loras: {} });
          drawSettings();
        }),
        model.outputs.length > 1 ? choice(t('create.output'), model.outputs.map((output) => [output, t(`create.${output}`)]), draft.output, (value) => (set('output', value), drawSettings())) : null,
        sizeField(model),
        draft.output === 'video' ? lengthField(model) : null,
        seedField(),
        slider(t('create.count'), { value: draft.count, min: 1, max: MAX_COUNT, say: String, onchange: (value) => set('count', value) }),
      ),
      places_.length ? h('fieldset', { class: 'inputs' }, h('legend', null, t('create.inputs')), h('div', { class: 'drops' }, places_)) : '',
      more,
    );
    drawRequest();
  }

  function sizeField(model) {
    const usual = model.defaults;
    const now = `${draft.width || usual.width}x${draft.height || usual.height}`;
    const offered = sizes(model).map(([width, height]) => [`${width}x${height}`, `${width} × ${height}`]);
    const custom = draft.custom || !offered.some(([name]) => name === now);
    const pick = choice(t('create.size'), [...offered, ['custom', t('create.custom')]], custom ? 'custom' : now, (value) => {
      draft.custom = value === 'custom';
      if (!draft.custom) [draft.width, draft.height] = value.split('x').map(Number);
      drawSettings();
    });
    if (!custom) return pick;
    const side = (name) => h('input', {
      type: 'number', 'aria-label': t(`create.${name}`), 'data-field': name, min: model.limits.min_side, max: model.limits.max_side,
      step: model.limits.side_multiple, value: draft[name] || usual[name],
      oninput: (event) => set(name, Number(event.target.value) || null),
    });
    return [pick, h('div', { class: 'field' }, h('span', { class: 'label' }, `${t('create.width')} × ${t('create.height')}`), h('div', { class: 'pair' }, side('width'), side('height')))];
  }

  function lengthField(model) {
    const offered = frameChoices(model);
    if (offered.length < 2) return null;
    const now = draft.frames || model.defaults.num_frames;
    const at = offered.reduce((best, frames, index) => (Math.abs(frames - now) < Math.abs(offered[best] - now) ? index : best), 0);
    const words = (index) => t('create.frames', { frames: offered[index], seconds: number(offered[index] / model.defaults.fps, 1) });
    return slider(t('create.length'), { value: at, min: 0, max: offered.length - 1, say: words, onchange: (index) => set('frames', offered[index]) });
  }

  function seedField() {
    const input = h('input', { inputmode: 'numeric', placeholder: t('create.seed.random'), value: draft.seed, pattern: '[0-9]*', 'data-field': 'seed', oninput: () => change(input.value.replace(/\D/g, '').slice(0, 15)) });
    const change = (seed) => {
      if (input.value !== seed) input.value = seed;
      clear.hidden = !seed;
      set('seed', seed);
    };
    const roll = iconButton('dice', t('create.seed.dice'), () => change(rollSeed()));
    const clear = h('button', { type: 'button', class: 'inside', 'aria-label': t('create.seed.clear'), title: t('create.seed.clear'), hidden: !draft.seed, onclick: () => (change(''), input.focus()) }, icon('close'));
    const made = field(t('create.seed'), input);
    const inset = h('span', { class: 'inset' });
    const pair = h('div', { class: 'pair' });
    input.before(pair);
    inset.append(input, clear);
    pair.append(inset, roll);
    return made;
  }

  function moreSettings(model) {
    const { defaults } = model;
    const presets = Object.keys(model.presets || {});
    const negative = h('textarea', { rows: 2, placeholder: t('create.negative.hint'), value: draft.negative || defaults.negative_prompt, oninput: () => set('negative', negative.value) });
    const live = h('input', { type: 'checkbox', id: newId('live'), checked: draft.previews, onchange: () => set('previews', live.checked) });
    const sketch = h('input', { type: 'checkbox', id: newId('sketch'), checked: draft.sketch, onchange: () => set('sketch', sketch.checked) });
    return [
      h('div', { class: 'wide' }, field(t('create.negative'), negative)),
      presets.length ? choice(t('create.preset'), [['', t('create.preset.none')], ...presets.map((name) => [name, name])], draft.preset, (value) => (set('preset', value), drawSettings())) : null,
      slider(t('create.steps'), { value: draft.steps || defaults.num_inference_steps, min: 1, max: stepBound(model), say: String, onchange: (value) => set('steps', value) }),
      defaults.guidance_scale === null ? null : field(t('create.guidance'), h('input', {
        type: 'number', min: 0, max: 100, step: 0.1, 'data-field': 'guidance_scale', value: draft.guidance ?? defaults.guidance_scale,
        oninput: (event) => set('guidance', event.target.value === '' ? null : Number(event.target.value)),
      })),
      (model.caches || []).length > 1 ? choice(t('create.cache'), model.caches.map((name) => [name, t(`create.cache.${name}`)]), draft.cache || model.cache, (value) => set('cache', value)) : null,
      loraField(model),
      h('div', { class: 'wide tick' }, live, h('label', { for: live.id }, t('create.previews'))),
      model.resumes ? h('div', { class: 'wide tick' }, sketch, h('label', { for: sketch.id }, t('create.sketch'))) : null,
      h('div', { class: 'wide acts' }, h('button', { type: 'button', class: 'quiet', onclick: reset }, icon('again'), t('create.reset')), fileButton()),
    ];
  }

  function loraField(model) {
    const offered = Object.entries(model.loras || {});
    if (!offered.length) return null;
    return h('fieldset', { class: 'wide loras' }, h('legend', null, t('create.loras')), offered.map(([name, { scale, trigger }]) => {
      const words = h('output', { class: 'soft' }, number(draft.loras[name] ?? scale, 2));
      const range = h('input', {
        type: 'range', min: -2, max: 2, step: 0.05, 'aria-label': t('create.lora.scale', { name }), disabled: !(name in draft.loras),
        oninput: () => ((draft.loras[name] = Number(range.value)), (words.textContent = number(range.value, 2)), drawRequest()),
      });
      range.value = draft.loras[name] ?? scale;
      const use = h('input', { type: 'checkbox', id: newId('lora'), checked: name in draft.loras, onchange: () => {
        if (use.checked) draft.loras[name] = Number(range.value);
        else delete draft.loras[name];
        range.disabled = !use.checked;
        drawRequest();
      } });
      return h('div', { class: 'lora' }, use, h('label', { for: use.id }, name, trigger ? h('small', null, ` ${trigger}`) : null), range, words);
    }));
  }

  /** What a drop on the form does, for those who do not drag. */
  function fileButton() {
    const input = h('input', { type: 'file', accept: 'image/*,video/*', class: 'unseen', 'aria-label': t('create.recipe'), onchange: () => fillFrom(input.files[0]) });
    return h('label', { class: 'button quiet', title: t('create.recipe.hint') }, input, icon('picture'), t('create.recipe'));
  }

  function reset() {
    Object.assign(draft, { output: '', negative: '', width: null, height: null, custom: false, frames: null, steps: null, guidance: null, seed: '', count: 1, preset: '', cache: '', loras: {}, inputs: {}, previews: true, sketch: false });
    drawSettings();
  }

  function drawRequest() {
    if (requestBox.open) requestBox.replaceChildren(requestBox.firstChild, ...snippets(requestOf(draft, modelOf(draft.model))));
  }

  async function submit() {
    fault.replaceChildren();
    if (!draft.prompt.trim() || send.disabled) return prompt.focus();
    send.disabled = true;
    send.lastChild.textContent = t('create.sending');
    key ||= requestKey();
    const model = modelOf(draft.model);
    const made = [];
    try {
      // What is still being uploaded is waited for; what did not arrive has said so.
      const arrived = await Promise.all(Object.values(draft.inputs).flat().map(({ sent }) => sent ?? true));
      for (let at = 0; at < draft.count && arrived.every(Boolean); at += 1) {
        made.push(await post('v1/jobs', requestOf(draft, model, at), { 'Idempotency-Key': `${key}-${at}` }));
        if (!at && !ended) {
          put(made[0]);
          // Where it stands below the form, it is gone to.
          if (matchMedia('(max-width: 860px)').matches) (prompt.blur(), scene.scrollIntoView({ behavior: 'smooth' }));
        }
      }
      key = '';
      // One is seen on the stage.
      if (made.length > 1) say(t('create.sent', { count: made.length }));
    } catch (error) {
      // Whether it was taken is not known where no answer came: sent again, it is the same job.
      if (error.status) key = '';
      tell(error);
    }
    send.disabled = false;
    send.lastChild.textContent = t('create.send');
    if (!made.length || ended) return;
    batch.begin(made);
    live.expect(made);
    lookAtPool().catch(() => {});
  }

  /** Put a job on the stage. */
  function put(job) {
    current?.end();
    current = stage(job, { onOpen, acts: resultButtons, onEnd: () => lookAtPool().catch(() => {}) });
    current.id = job.id;
    scene.replaceChildren(current.node);
    batch.mark();
    live?.mark();
  }

  /** What can be done with a result on the stage. */
  const resultButtons = (over, video) => [
    downloadLink(over),
    ...makeButtons(over, { video, say, done: () => go('create') }),
    h('button', { type: 'button', class: 'quiet', onclick: () => onOpen(over) }, t('view.details')),
  ];

  function empty() {
    scene.replaceChildren(h('section', { class: 'stage blank' }, h('div', { class: 'frame' }, h('div', { class: 'wheel', 'aria-hidden': 'true' }, ...Array.from({ length: 12 }, () => h('i')))),
      h('div', { class: 'under' }, h('p', null, t('create.empty')), h('p', { class: 'soft' }, t('create.examples')), h('div', { class: 'chips' }, EXAMPLES.map((text) => h('button', { type: 'button', class: 'chip', onclick: () => ((prompt.value = draft.prompt = text), drawRequest(), prompt.focus()) }, text))))));
  }

  const onPaste = (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith('image/'));
    const free = places.find(({ clip }) => !clip);
    if (file && free) {
      event.preventDefault();
      free.place.take([file]);
    }
  };
  document.addEventListener('paste', onPaste);

  empty();
  drawSettings();
  live = liveList(queue, { onPick: put, picked: () => current?.id, onLook: batch.look });
  (knownModels() ? Promise.resolve() : loadModels()).then(drawSettings, tell);
  // What is being drawn is shown to whoever comes, not an empty stage.
  listJobs({ state: LIVE, limit: 20, order: 'asc' }).then(({ data }) => {
    const job = data.find(({ state }) => state === 'running') || data[0];
    if (job && !current && !ended) put(job);
  }, () => {});
  if (matchMedia('(min-width: 900px)').matches) prompt.focus();
  return () => {
    ended = true;
    current?.end();
    live.end();
    document.removeEventListener('paste', onPaste);
  };
}
