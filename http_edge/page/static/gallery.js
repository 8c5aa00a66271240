// What was drawn: a grid that holds in the document only what is seen, filled page by page from the service, which filters.

import { FINAL, call, jobPath, listJobs, show } from './api.js';
import { h, icon } from './dom.js';
import { known, moment, problem, t } from './i18n.js';
import { loadModels } from './models.js';
import { endedJobs, every, pins } from './state.js';

const PAGE = 60;
const GAP = 14;
const NARROWEST = 210;
/** Short pages asked for one after the other, each of some ten thousand jobs looked at; then whoever searches decides. */
const SEARCHES = 5;
/** Rows kept beyond what is seen. */
const BEYOND = 3;
const STATES = ['succeeded', 'failed', 'cancelled'];

const filters = { prompt: '', model: '', state: 'succeeded', since: '', until: '', pinned: false };

/** What a card needs of a job; pages of whole jobs would fill the memory. */
const trimmed = (job) => ({
  id: job.id, state: job.state, prompt: job.spec?.prompt || job.id, file: job.artefacts[0], count: job.artefacts.length, at: job.submitted_at,
});

const capital = (words) => words.charAt(0).toUpperCase() + words.slice(1);

/** Midnight, here, of a day "2026-01-31", Unix seconds. */
const dayStart = (day, after = 0) => {
  const [year, month, date] = day.split('-').map(Number);
  return new Date(year, month - 1, date + after).getTime() / 1000;
};

export function galleryView(root, { onOpen }) {
  let jobs = [];
  /** Ids of `jobs`. */
  let had = new Set();
  let last = '';
  let more = true;
  let loading = null;
  let turn = 0;
  let ended = false;
  let searches = 0;
  let newest = null;
  let box = null;
  let seen = [0, 0];
  let endedBefore = '';
  const shown = new Map();
  const grid = h('div', { class: 'gallery', role: 'list', 'aria-label': t('gallery.title') });
  const count = h('p', { class: 'soft', role: 'status' });
  const fresh = h('button', { type: 'button', class: 'chip', hidden: true, onclick: () => restart() });
  const nothing = h('div', { class: 'empty', hidden: true });
  const searched = h('p', { class: 'soft', role: 'status' });
  const further = h('button', { type: 'button', class: 'quiet', hidden: true, onclick: () => ((searches = 0), fetchMore()) }, t('gallery.further'));
  const search_ = h('div', { class: 'line further', hidden: true }, searched, further);
  const model = h('select', { id: 'gallery-model', onchange: () => change('model', model.value) }, h('option', { value: '' }, t('gallery.any')));
  const state = h('select', { id: 'gallery-state', onchange: () => change('state', state.value) }, h('option', { value: STATES.join(',') }, t('gallery.any')), STATES.map((name) => h('option', { value: name, selected: filters.state === name }, capital(t(`state.${name}`)))));
  const search = h('input', { id: 'gallery-search', type: 'search', value: filters.prompt, placeholder: t('gallery.search'), 'aria-label': t('gallery.search'), maxlength: 256, oninput: () => soon(() => change('prompt', search.value.trim())) });
  const day = (name) => h('input', { id: `gallery-${name}`, type: 'date', value: filters[name], onchange: (event) => change(name, event.target.value) });
  const pinned = h('button', { type: 'button', class: 'chip', 'aria-pressed': String(filters.pinned), onclick: () => change('pinned', !filters.pinned) }, icon('star'), t('gallery.pinned'));
  const labelled = (label, control) => h('label', { class: 'inline' }, h('span', null, label), control);

  root.replaceChildren(
    h('h1', null, t('gallery.title')),
    h('div', { class: 'filters', role: 'search' }, search, labelled(t('gallery.model'), model), labelled(t('gallery.state'), state), labelled(t('gallery.since'), day('since')), labelled(t('gallery.until'), day('until')), pinned),
    h('div', { class: 'line' }, count, fresh), grid, search_, nothing,
  );

  let timer;
  function soon(work) {
    clearTimeout(timer);
    timer = setTimeout(work, 250);
  }

  function change(name, value) {
    filters[name] = value;
    pinned.setAttribute('aria-pressed', String(filters.pinned));
    restart();
  }

  const query = () => ({
    prompt: filters.prompt, model: filters.model, state: filters.state || STATES.join(','),
    since: filters.since && dayStart(filters.since), until: filters.until && dayStart(filters.until, 1),
  });

  /** Those of these jobs that are not in the grid; they count as in it from now on. */
  function unseen(data) {
    const fresh_ = data.filter((job) => !had.has(job.id)).map(trimmed);
    for (const job of fresh_) had.add(job.id);
    return fresh_;
  }

  function restart() {
    turn += 1;
    jobs = [];
    had = new Set();
    last = '';
    more = true;
    loading = null;
    searches = 0;
    newest = null;
    fresh.hidden = search_.hidden = true;
    for (const { node } of shown.values()) node.remove();
    shown.clear();
    scrollTo({ top: 0 });
    draw();
    fetchMore();
  }

  async function pinnedJobs() {
    const found = await Promise.all(pins.get().map((id) => call(jobPath(id)).catch((error) => (error.status === 404 ? id : null))));
    // What was deleted elsewhere is pinned no more.
    const gone = new Set(found.filter((one) => typeof one === 'string'));
    if (gone.size) pins.set(pins.get().filter((id) => !gone.has(id)));
    const text = filters.prompt.toLowerCase();
    return found.filter((job) => job?.id && FINAL.has(job.state) && job.spec?.prompt.toLowerCase().includes(text));
  }

  function fetchMore() {
    if (loading || !more || ended || searches >= SEARCHES) return;
    const mine = turn;
    count.textContent = jobs.length ? count.textContent : t('gallery.loading');
    loading = (filters.pinned ? pinnedJobs().then((data) => ({ data, has_more: false })) : listJobs({ ...query(), limit: PAGE, after: last })).then(
      (page) => {
        if (mine !== turn || ended) return;
        loading = null;
        jobs.push(...unseen(page.data));
        last = page.last_id || last;
        more = page.has_more;
        newest = jobs[0] || null;
        searches = page.searched_to ? searches + 1 : 0;
        search_.hidden = !page.searched_to;
        further.hidden = searches < SEARCHES;
        if (page.searched_to) searched.textContent = t(jobs.length ? 'gallery.searched' : 'gallery.sofar', { date: moment(page.searched_to) });
        draw();
      },
      (error) => {
        if (mine !== turn || ended) return;
        loading = null;
        count.textContent = problem(error);
        setTimeout(() => mine === turn && fetchMore(), 2000);
      },
    );
  }

  /** Sizes in pixels, and where the grid begins in the document. Asking makes the browser lay out, so not while it scrolls. */
  function measure() {
    const width = grid.clientWidth || 1;
    const columns = Math.max(2, Math.floor((width + GAP) / (NARROWEST + GAP)));
    const side = (width - GAP * (columns - 1)) / columns;
    box = { columns, side, height: side * 0.75 + 44, top: grid.getBoundingClientRect().top + scrollY };
  }

  function draw() {
    if (ended) return;
    measure();
    const rows = Math.ceil(jobs.length / box.columns);
    grid.style.height = `${Math.max(0, rows * (box.height + GAP) - GAP)}px`;
    place(range());
  }

  /** Which jobs are in the document: [from, to). */
  function range() {
    const { columns, height, top } = box;
    const above = scrollY - top;
    const first = Math.max(0, Math.floor(above / (height + GAP)) - BEYOND) * columns;
    return [first, Math.max(first, (Math.ceil((above + innerHeight) / (height + GAP)) + BEYOND) * columns)];
  }

  function onScroll() {
    const [first, end] = range();
    if (first !== seen[0] || end !== seen[1]) place([first, end]);
  }

  function place([first, end]) {
    seen = [first, end];
    const { columns, side, height } = box;
    const wanted = jobs.slice(first, end);
    const ids = new Set(wanted.map((job) => job.id));
    for (const [id, one] of shown) {
      if (!ids.has(id)) {
        one.node.remove();
        shown.delete(id);
      }
    }
    wanted.forEach((job, at) => {
      const index = first + at;
      let one = shown.get(job.id);
      if (!one) {
        one = { node: card(job) };
        shown.set(job.id, one);
        // In the order in which they are seen: so the keyboard goes through them.
        grid.insertBefore(one.node, grid.children[at] || null);
      }
      const transform = `translate(${(index % columns) * (side + GAP)}px, ${Math.floor(index / columns) * (height + GAP)}px)`;
      const size = more ? -1 : jobs.length;
      // Most stay where they are while it scrolls.
      if (one.transform === transform && one.side === side && one.size === size) return;
      Object.assign(one, { transform, side, size });
      one.node.setAttribute('aria-posinset', index + 1);
      one.node.setAttribute('aria-setsize', size);
      Object.assign(one.node.style, { width: `${side}px`, height: `${height}px`, transform });
    });
    if (!loading) tell();
    if (more && end + columns * BEYOND >= jobs.length) fetchMore();
  }

  function tell() {
    const filtered = filters.prompt || filters.model || filters.since || filters.until || filters.pinned || filters.state !== 'succeeded';
    nothing.hidden = jobs.length > 0 || more;
    if (!nothing.hidden) {
      nothing.replaceChildren(h('p', null, t(filtered ? 'gallery.none' : 'gallery.empty')), filtered
        ? h('button', { type: 'button', class: 'quiet', onclick: clear }, t('gallery.clear'))
        : h('a', { class: 'button primary', href: '#/create' }, icon('plus'), t('nav.create')));
    }
    count.textContent = jobs.length ? t(more ? 'gallery.more' : 'gallery.count', { count: jobs.length }) : '';
  }

  function clear() {
    Object.assign(filters, { prompt: '', model: '', state: 'succeeded', since: '', until: '', pinned: false });
    search.value = model.value = '';
    state.value = 'succeeded';
    for (const name of ['since', 'until']) root.querySelector(`#gallery-${name}`).value = '';
    pinned.setAttribute('aria-pressed', 'false');
    restart();
  }

  function card(job) {
    const picture = h('div', { class: 'thumb' });
    const mark = job.state === 'succeeded' ? null : h('span', { class: `badge ${job.state}` }, known(`state.${job.state}`, job.state));
    if (job.file) {
      const image = h('img', { alt: '', loading: 'lazy', decoding: 'async' });
      show(image, `${jobPath(job.id)}/thumbnail`);
      picture.append(image);
    } else picture.append(h('span', { class: 'sorry' }, icon('close')));
    if (job.count > 1) picture.append(h('span', { class: 'badge many' }, `× ${job.count}`));
    if (pins.get().includes(job.id)) picture.append(h('span', { class: 'badge pin' }, icon('star')));
    const button = h('button', { type: 'button', class: 'bare card', 'aria-label': job.prompt, onclick: () => onOpen(job) }, picture, h('span', { class: 'caption' }, mark, h('span', null, job.prompt)));
    if (job.file?.media_type.startsWith('video/')) hoverPlay(button, picture, job.file.url);
    return h('div', { role: 'listitem', class: 'cell', 'data-job': job.id }, button);
  }

  draw();
  fetchMore();
  loadModels().then((found) => model.append(...found.map(({ id }) => h('option', { value: id, selected: filters.model === id }, id))), () => {});
  // New ones are offered, not pushed in under the reader's eyes.
  const unwatch = every(5, async () => {
    if (filters.pinned || loading) return;
    // Nothing has ended since: nothing is new.
    const now = endedJobs();
    if (now && now === endedBefore) return;
    // Before the newest nothing can be new: a search for what is rare does not begin anew each time.
    const asked = query();
    if (newest) asked.since = Math.max(asked.since || 0, newest.at);
    const { data } = await listJobs({ ...asked, limit: 20 });
    endedBefore = now;
    const at = data.findIndex((job) => job.id === newest?.id);
    const more_ = at < 0 ? data.length : at;
    if (!more_ || (!newest && jobs.length)) return;
    if (scrollY < 80) restartQuietly(data);
    else {
      fresh.textContent = t('gallery.new', { count: more_ });
      fresh.hidden = false;
    }
  });
  function restartQuietly(data) {
    jobs = [...unseen(data), ...jobs];
    newest = jobs[0] || null;
    draw();
  }
  addEventListener('scroll', onScroll, { passive: true });
  addEventListener('resize', draw);
  const unpin = pins.watch(() => filters.pinned && restart());
  return {
    forget(id) {
      const at = jobs.findIndex((job) => job.id === id);
      const focused = shown.get(id)?.node.contains(document.activeElement);
      jobs = jobs.filter((job) => job.id !== id);
      had.delete(id);
      draw();
      // Whoever deletes with the keyboard goes on from where that was.
      if (focused) (shown.get((jobs[at] || jobs[at - 1])?.id)?.node.querySelector('button') || search).focus();
    },
    search: () => search.focus(),
    end() {
      ended = true;
      unwatch();
      unpin();
      clearTimeout(timer);
      removeEventListener('scroll', onScroll);
      removeEventListener('resize', draw);
    },
  };
}

function hoverPlay(button, picture, url) {
  let timer = 0;
  let video = null;
  const begin = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      video = h('video', { muted: true, loop: true, autoplay: true, playsInline: true, 'aria-hidden': 'true', tabindex: -1 });
      show(video, url);
      picture.append(video);
    }, 120);
  };
  const end = () => {
    clearTimeout(timer);
    video?.remove();
    video = null;
  };
  button.addEventListener('pointerenter', begin);
  button.addEventListener('focus', begin);
  button.addEventListener('pointerleave', end);
  button.addEventListener('blur', end);
}
