// What a model can be asked for, read from its entry in GET /v1/models; and the request that the form stands for. Nothing of the page in here.

const RATIOS = [[16, 9], [4, 3], [1, 1], [3, 4], [9, 16]];

/** Pictures shown of an output while it is drawn. */
export const PREVIEWS = 4;

/** Sizes to choose from as [width, height], the model's usual one first: common shapes of about as many pixels. */
export function sizes({ defaults, limits }) {
  const found = new Map([[`${defaults.width}x${defaults.height}`, [defaults.width, defaults.height]]]);
  const area = defaults.width * defaults.height;
  const side = (length) => {
    const step = limits.side_multiple || 1;
    return Math.min(limits.max_side, Math.max(limits.min_side, Math.round(length / step) * step));
  };
  for (const [across, down] of RATIOS) {
    const width = side(Math.sqrt((area * across) / down));
    const height = side(Math.sqrt((area * down) / across));
    if (width * height <= (limits.max_pixels || Infinity)) found.set(`${width}x${height}`, [width, height]);
  }
  return [...found.values()];
}

/** Numbers of frames that the model can draw, ascending. */
export function frameChoices({ limits }) {
  if (limits.frame_choices?.length) return [...limits.frame_choices].sort((a, b) => a - b);
  const found = [];
  const step = limits.frame_step || 1;
  for (let frames = limits.frame_offset || step; frames <= limits.max_frames && found.length < 2000; frames += step) found.push(frames);
  return found;
}

/** Media that the model takes beside the prompt: {role, clip, several, needed}. */
export function roles(model) {
  const names = [...(model.takes_image ? ['image'] : []), ...(model.takes_inputs || [])];
  const needed = new Set([...(model.needs_inputs || []), ...(model.needs_image ? ['image'] : [])]);
  return names.map((role) => ({ role, clip: role.includes('video'), several: role === 'reference_images', needed: needed.has(role) }));
}

/** Steps that a slider offers, at most. */
export const stepBound = ({ defaults, limits }) => Math.min(limits.max_steps, Math.max(60, 2 * defaults.num_inference_steps));

/** The fields of POST /v1/jobs for the form: only what differs from what the model does by itself. `number`: of several jobs, from 0. */
export function requestOf(draft, model, number = 0) {
  const fields = { prompt: draft.prompt.trim() };
  if (!model) return fields;
  const { defaults } = model;
  fields.model = model.id;
  const output = draft.output || model.output;
  if (output !== model.output) fields.output = output;
  if (draft.negative && draft.negative !== defaults.negative_prompt) fields.negative_prompt = draft.negative;
  const [width, height] = [draft.width || defaults.width, draft.height || defaults.height];
  if (width !== defaults.width || height !== defaults.height) fields.size = `${width}x${height}`;
  if (output === 'video' && draft.frames && draft.frames !== defaults.num_frames) fields.num_frames = draft.frames;
  if (draft.preset) fields.preset = draft.preset;
  if (draft.steps && draft.steps !== defaults.num_inference_steps) fields.num_inference_steps = draft.steps;
  if (draft.guidance !== null && draft.guidance !== defaults.guidance_scale) fields.guidance_scale = draft.guidance;
  if (draft.cache && draft.cache !== model.cache) fields.cache = draft.cache;
  const loras = Object.entries(draft.loras).filter(([name]) => name in (model.loras || {}));
  if (loras.length) fields.loras = loras.map(([name, scale]) => ({ name, scale }));
  if (draft.seed !== '') fields.seed = Number(draft.seed) + number;
  for (const { role, several } of roles(model)) {
    const ids = (draft.inputs[role] || []).map(({ id }) => id).filter(Boolean);
    if (ids.length) fields[role] = several ? ids : ids[0];
  }
  if (draft.previews) fields.previews = PREVIEWS;
  if (draft.sketch && model.resumes) fields.draft_steps = Math.ceil((draft.steps || defaults.num_inference_steps) / 3);
  return fields;
}

/** What the form holds of a spec or a request; and what says nothing about the picture. */
const IN_FORM = new Set([
  'model', 'output', 'prompt', 'negative_prompt', 'width', 'height', 'size', 'num_frames', 'preset', 'cache', 'num_inference_steps', 'guidance_scale', 'seed', 'loras',
]);
const APART = new Set(['previews', 'recipe', 'draft_steps']);

const said = (value) => value !== null && value !== undefined && value !== '' && !(typeof value === 'object' && !Object.keys(value).length);

/** Put a job's spec, or a request, into the form; returns what else it says, by name. What its inputs were is known only where they are files of the service. */
export function intoDraft(draft, spec, model, { seed }) {
  const [width, height] = spec.size ? spec.size.split('x').map(Number) : [spec.width ?? null, spec.height ?? null];
  const output = spec.output || model?.output || '';
  Object.assign(draft, {
    model: spec.model || '', output, prompt: spec.prompt || '', negative: spec.negative_prompt || '', width, height,
    frames: output === 'video' ? spec.num_frames ?? null : null, preset: spec.preset || '', cache: spec.cache || '',
    steps: spec.preset ? null : spec.num_inference_steps ?? null, guidance: spec.preset ? null : spec.guidance_scale ?? null,
    seed: seed && spec.seed !== undefined ? String(spec.seed) : '', count: 1, inputs: {},
    loras: Object.fromEntries((spec.loras || []).map(({ name, scale }) => [name, scale])),
  });
  if (typeof spec.image === 'string' && spec.image.startsWith('file-')) draft.inputs.image = [{ id: spec.image, name: spec.image }];
  // What the model does by itself needs no place.
  return Object.keys(spec).filter((name) => !IN_FORM.has(name) && !APART.has(name) && said(spec[name]) && spec[name] !== model?.defaults[name]);
}

/** A seed, evenly drawn. */
export const rollSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);

/** A name for a request, so that sent again it makes no second job. */
export const requestKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
