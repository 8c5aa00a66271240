// Elements, built from names and values. Data becomes text or an attribute, never markup.

const PROPERTIES = new Set(['value', 'checked', 'disabled', 'muted', 'loop', 'autoplay', 'hidden', 'selected', 'multiple', 'open', 'playsInline']);

function set(node, name, value) {
  if (value === undefined || value === null || value === false && !PROPERTIES.has(name)) return;
  if (name === 'class') node.setAttribute('class', value);
  else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
  else if (PROPERTIES.has(name)) node[name] = value;
  else node.setAttribute(name, value === true ? '' : String(value));
}

function fill(node, props, kids) {
  for (const [name, value] of Object.entries(props || {})) set(node, name, value);
  node.append(...kids.flat(Infinity).filter((kid) => kid !== null && kid !== undefined && kid !== false));
  return node;
}

/** An HTML element: `on…` are listeners, null and false children are left out. */
export const h = (tag, props, ...kids) => fill(document.createElement(tag), props, kids);

/** An SVG element. */
export const s = (tag, props, ...kids) => fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, kids);

const ICONS = {
  dice: 'M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zM8 8h.01M16 8h.01M12 12h.01M8 16h.01M16 16h.01',
  play: 'M7 4.5v15l12-7.5z',
  pause: 'M8 5v14M16 5v14',
  loop: 'M4 11a7 7 0 0 1 12-4l3 3M19 4v6h-6M20 13a7 7 0 0 1-12 4l-3-3M5 20v-6h6',
  back: 'M18 5v14l-10-7zM6 5v14',
  forward: 'M6 5v14l10-7zM18 5v14',
  download: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  star: 'M12 3.5l2.6 5.4 5.9.8-4.3 4.1 1.1 5.9L12 16.9l-5.3 2.8 1.1-5.9L3.5 9.7l5.9-.8z',
  trash: 'M5 7h14M10 4h4M7 7l1 13h8l1-13M10 11v5M14 11v5',
  close: 'M6 6l12 12M18 6L6 18',
  picture: 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01',
  key: 'M14 10a4 4 0 1 0-3.5 4L12 15.5h2V17h2v2h3v-3l-5.3-5.3',
  theme: 'M12 3v18a9 9 0 0 0 0-18zM12 3a9 9 0 0 0 0 18',
  again: 'M4 12a8 8 0 1 0 2.5-5.8M4 4v5h5',
  vary: 'M4 7h4l8 10h4M4 17h4l2.5-3.2M13.5 10.2L16 7h4M17 4l3 3-3 3M17 14l3 3-3 3',
  plus: 'M12 5v14M5 12h14',
};

export const icon = (name) =>
  s('svg', { viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false' }, s('path', { d: ICONS[name] }));

/** A button with a picture on it: its name is for those who do not see it, and in its tip. */
export const iconButton = (name, label, onclick, props = {}) =>
  h('button', { type: 'button', class: 'quiet round', 'aria-label': label, title: label, onclick, ...props }, icon(name));

let serial = 0;
export const newId = (stem) => `${stem}-${++serial}`;
