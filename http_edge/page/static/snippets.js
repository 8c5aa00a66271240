// A request as a program would send it: the fields of POST /v1/jobs as curl, Python and the command.

const shell = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function python(value) {
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (value === null) return 'None';
  if (Array.isArray(value)) return `[${value.map(python).join(', ')}]`;
  if (typeof value === 'object') return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(', ')}}`;
  return JSON.stringify(value);
}

/** Fields that the command has options for; others go as `--set name=value`. */
const OPTIONS = {
  model: '--model', size: '--size', num_frames: '--frames', num_inference_steps: '--steps', guidance_scale: '--guidance', seed: '--seed',
  negative_prompt: '--negative', preset: '--preset', image: '--image', last_image: '--last-image', video: '--video', previews: '--previews',
  draft_steps: '--draft',
};

const suffix = (fields) => (fields.output === 'image' ? 'png' : 'mp4');

export function asCurl(fields, base, keyed) {
  const key = keyed ? ` -H "Authorization: Bearer $ZOETROPE_API_KEY"` : '';
  return `curl ${shell(`${base}v1/jobs`)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(JSON.stringify(fields))}`;
}

export function asPython({ prompt, ...fields }, base) {
  const rest = Object.entries(fields).map(([name, value]) => `,\n    ${name}=${python(value)}`).join('');
  return `import zoetrope\n\nclient = zoetrope.Client(${JSON.stringify(base)})\nclient.generate(\n    ${python(prompt)},\n    to="out.${suffix(fields)}"${rest},\n)`;
}

export function asCommand({ prompt, ...fields }, base) {
  const words = [`ZOETROPE_URL=${shell(base)} zoetrope generate ${shell(prompt)}`];
  for (const [name, value] of Object.entries(fields)) {
    if (name === 'loras') for (const lora of value) words.push(`--lora ${shell(`${lora.name}:${lora.scale}`)}`);
    else if (OPTIONS[name]) words.push(`${OPTIONS[name]} ${shell(String(value))}`);
    else words.push(`--set ${shell(`${name}=${typeof value === 'object' ? JSON.stringify(value) : value}`)}`);
  }
  return [...words, `-o out.${suffix(fields)}`].join(' \\\n  ');
}
