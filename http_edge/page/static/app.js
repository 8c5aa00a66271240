// The page put together: header, views by address, dialogs, keys of the keyboard.

import { getKey, lookAtPool, setKey, waitOnline, whenKeyNeeded } from './api.js';
import { createView } from './create.js';
import { h, icon, iconButton, s } from './dom.js';
import { galleryView } from './gallery.js';
import { language, t } from './i18n.js';
import { every, online, pool, theme } from './state.js';
import { openViewer } from './viewer.js';
import { workersView } from './workers.js';

const VIEWS = ['create', 'gallery', 'workers'];

const app = document.getElementById('app');
const main = h('main', { id: 'main', tabindex: -1 });
const banner = h('div', { class: 'banner', role: 'status', hidden: true });
const toasts = h('div', { class: 'toasts', role: 'status', 'aria-live': 'polite' });
const queueChip = h('a', { class: 'chip', href: '#/workers' });
let nav;
let view = '';
let live = null;
let viewing = '';

function say(text, bad = false) {
  const toast = h('p', { class: bad ? 'toast bad' : 'toast' }, text);
  toasts.append(toast);
  setTimeout(() => toast.remove(), bad ? 8000 : 4000);
}

function dialogOf(label, ...kids) {
  const dialog = h('dialog', { class: 'small', 'aria-label': label }, kids);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask a question; whether the answer was yes. */
function sure(question) {
  return new Promise((done) => {
    const dialog = dialogOf(question, h('p', null, question), h('div', { class: 'actions' },
      h('button', { type: 'button', class: 'quiet', onclick: () => dialog.close('') }, t('sure.no')), h('button', { type: 'button', class: 'primary', onclick: () => dialog.close('yes') }, t('sure.yes'))));
    dialog.addEventListener('close', () => (dialog.remove(), done(dialog.returnValue === 'yes')));
  });
}

function askKey(wrong) {
  return new Promise((done) => {
    const input = h('input', { id: 'key', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
    const form = h('form', { onsubmit: (event) => (event.preventDefault(), setKey(input.value.trim()), dialog.close()) },
      h('h2', null, t('key.title')), wrong ? h('p', { class: 'bad', role: 'alert' }, t('key.wrong')) : null,
      h('div', { class: 'field' }, h('label', { for: 'key' }, t('key.label')), input), h('p', { class: 'soft' }, t('key.note')),
      h('div', { class: 'actions' }, h('button', { type: 'submit', class: 'primary' }, icon('key'), t('key.enter'))));
    const dialog = dialogOf(t('key.title'), form);
    dialog.addEventListener('cancel', (event) => event.preventDefault());
    dialog.addEventListener('close', () => (dialog.remove(), header(), done()));
  });
}

function help() {
  const dialog = dialogOf(t('help.title'), h('h2', null, t('help.title')), h('ul', null, t('help.rows').split('|').map((row) => row.split(/[:：] ?/)).map(([keys, words]) => h('li', null, h('kbd', null, keys), words))),
    h('div', { class: 'actions' }, h('button', { type: 'button', class: 'primary', onclick: () => dialog.close() }, t('view.close'))));
  dialog.addEventListener('close', () => dialog.remove());
}

function setTheme(name) {
  theme.set(name);
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

const logo = () => s('svg', { viewBox: '0 0 32 32', class: 'logo', 'aria-hidden': 'true' }, s('circle', { cx: 16, cy: 16, r: 15 }),
  Array.from({ length: 8 }, (_, at) => s('path', { d: 'M16 4.5v5', transform: `rotate(${45 * at} 16 16)` })), s('circle', { cx: 16, cy: 16, r: 3, class: 'hub' }));

function header() {
  document.documentElement.lang = language.get();
  nav = h('nav', { 'aria-label': 'Zoetrope' }, VIEWS.map((name) => h('a', { href: `#/${name}`, 'aria-current': name === view ? 'page' : null }, t(`nav.${name}`))));
  const top = h('header', { class: 'top' },
    h('a', { class: 'skip', href: '#main', onclick: (event) => (event.preventDefault(), main.focus()) }, t('nav.skip')),
    h('a', { class: 'brand', href: '#/create' }, logo(), h('span', null, 'Zoetrope')), nav, h('span', { class: 'grow' }), queueChip,
    h('a', { class: 'quiet button docs', href: 'docs' }, t('nav.docs')),
    getKey() ? iconButton('key', t('key.leave'), () => (setKey(''), location.reload())) : null,
    h('button', { type: 'button', class: 'quiet', lang: language.get() === 'zh' ? 'en' : 'zh', onclick: () => language.set(language.get() === 'zh' ? 'en' : 'zh') }, t('nav.language')),
    iconButton('theme', t('nav.theme'), () => {
      const dark = matchMedia('(prefers-color-scheme: dark)').matches;
      const order = dark ? ['', 'light', 'dark'] : ['', 'dark', 'light'];
      setTheme(order[(order.indexOf(theme.get()) + 1) % 3]);
    }));
  if (main.isConnected) app.querySelector('header').replaceWith(top);
  else app.replaceChildren(top, banner, main, toasts);
  drawQueue();
}

function drawQueue() {
  const counts = pool.get()?.queue.counts;
  const [running, waiting] = counts ? [counts.running + counts.assigned, counts.queued + counts.delayed] : [0, 0];
  const parts = [running && t('queue.running', { running }), waiting && t('queue.waiting', { waiting })].filter(Boolean);
  queueChip.textContent = parts.join(' · ') || t('queue.idle');
  queueChip.hidden = !counts;
}

/** Show a view, drawn anew even if it is there: what it shows may have changed. */
function go(name) {
  view = '';
  if (location.hash === `#/${name}`) draw(name);
  else location.hash = `#/${name}`;
}

function draw(name) {
  live?.end?.();
  view = name;
  for (const link of nav.children) link.toggleAttribute('aria-current', false);
  nav.children[VIEWS.indexOf(name)].setAttribute('aria-current', 'page');
  document.title = `${t(`nav.${name}`)} · Zoetrope`;
  const parts = { say, sure, go, onOpen: (job) => (location.hash = `#/job/${encodeURIComponent(job.id)}`) };
  const made = { create: createView, gallery: galleryView, workers: workersView }[name](main, parts);
  live = typeof made === 'function' ? { end: made } : made;
}

function route() {
  const [, name, id] = location.hash.split('/');
  if (name === 'job' && id) {
    if (!view) draw('gallery');
    open(decodeURIComponent(id));
    return;
  }
  document.querySelector('dialog.sheet')?.close();
  const wanted = VIEWS.includes(name) ? name : 'create';
  if (wanted !== view) draw(wanted);
}

function open(id) {
  if (viewing === id) return;
  document.querySelector('dialog.sheet')?.close();
  viewing = id;
  openViewer(id, {
    go, say, sure,
    onClose: () => {
      viewing = '';
      if (location.hash.startsWith('#/job/')) history.replaceState(null, '', `#/${view}`);
    },
    onDelete: (gone) => live?.forget?.(gone),
  });
}

function onKey(event) {
  if (event.target.matches('input, textarea, select, [contenteditable]') || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const act = {
    n: () => (go('create'), document.getElementById('prompt')?.focus()), g: () => go('gallery'), w: () => go('workers'), '?': help,
    '/': () => (go('gallery'), setTimeout(() => live?.search?.())),
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
}

whenKeyNeeded(askKey);
setTheme(theme.get());
header();
online.watch((up) => {
  banner.hidden = up;
  banner.textContent = t('offline');
  if (up) say(t('online'));
  else waitOnline();
});
pool.watch(drawQueue);
language.watch(() => {
  header();
  const now = view;
  view = '';
  draw(now);
});
addEventListener('hashchange', route);
document.addEventListener('keydown', onKey);
route();
every(4, () => lookAtPool(3000));
