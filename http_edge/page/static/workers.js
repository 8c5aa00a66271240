// The workers: what each is, has and does; the queue by model; the last hour.

import { call, listJobs, lookAtPool, post } from './api.js';
import { areaChart } from './charts.js';
import { h } from './dom.js';
import { duration, known, megabytes, number, problem, t } from './i18n.js';
import { every, liveJobs, pool } from './state.js';
import { usagePanel } from './usage.js';

const meter = (label, share, words) =>
  h('div', { class: 'meter' }, h('span', { class: 'soft' }, label), h('span', { class: 'thin', role: 'img', 'aria-label': `${label}: ${words}` }, h('span', { 'data-share': Math.min(100, Math.round(100 * share)) })), h('span', null, words));

const fact = (label, value) => h('div', { class: 'fact' }, h('dt', null, label), h('dd', null, value));

/** What waits for the depot, where that is more than the way there; '' where it is not. */
function stuck(depot) {
  if (!depot || !(depot.fault || depot.full)) return '';
  const what = depot.results ? t('workers.depot.results', { count: number(depot.results), size: megabytes(depot.size_mb) }) : t('workers.depot.inputs');
  return [what, depot.full ? t('workers.depot.full') : '', depot.fault || ''].filter(Boolean).join(' · ');
}

function card(worker, started, onDrain) {
  const doing = worker.jobs.map((job) => {
    const running = started.get(job.id);
    const since = running?.started_at;
    const words = [job.phase ? known(`phase.${job.phase}`, job.phase) : '', job.total ? `${job.step}/${job.total}` : '', since ? t('workers.since', { time: duration(Math.max(0, Date.now() / 1000 - since)) }) : ''];
    return h('div', null, h('a', { href: `#/job/${encodeURIComponent(job.id)}` }, running?.spec?.prompt.slice(0, 80) || job.id), h('span', { class: 'soft' }, ` ${words.filter(Boolean).join(' · ')}`));
  });
  const facts = [
    worker.model ? fact(t('create.model'), worker.model) : null,
    h('div', { class: 'wide' }, fact(t('workers.doing'), doing.length ? doing : h('span', { class: 'soft' }, t('workers.nothing')))),
    worker.temperature_c === null ? null : fact(t('workers.temperature'), `${number(worker.temperature_c)} °C`),
    fact(t('workers.done'), `${number(worker.succeeded)} / ${number(worker.failed)}`),
    worker.loaded_loras?.length ? fact(t('workers.loras'), worker.loaded_loras.join(', ')) : null,
    stuck(worker.depot) ? h('div', { class: 'wide' }, fact(t('workers.depot'), h('span', { class: 'bad' }, stuck(worker.depot)))) : null,
    worker.fault ? fact(t('workers.fault'), h('span', { class: 'bad' }, worker.fault)) : null,
  ];
  const drains = worker.state === 'draining';
  const button = worker.state === 'lost' ? null : h('button', { type: 'button', class: 'quiet', onclick: () => onDrain(worker, drains) }, t(drains ? 'workers.undrain' : 'workers.drain'));
  return h('article', { class: 'panel worker', 'data-worker': worker.name, 'aria-label': worker.name },
    h('header', { class: 'line' }, h('h3', null, worker.name), h('span', { class: `badge ${worker.state}` }, known(`worker.${worker.state}`, worker.state)), h('span', { class: 'grow' }), button),
    h('p', { class: 'soft' }, `${worker.device}${worker.gpus > 1 ? ` × ${worker.gpus}` : ''} · ${worker.host}`),
    worker.memory_total_mb ? meter(t('workers.memory'), worker.memory_used_mb / worker.memory_total_mb, `${megabytes(worker.memory_used_mb)} / ${megabytes(worker.memory_total_mb)}`) : null,
    worker.utilisation === null ? null : meter(t('workers.use'), worker.utilisation / 100, `${number(worker.utilisation)} %`),
    worker.power_w === null ? null : meter(t('workers.power'), worker.power_limit_w ? worker.power_w / worker.power_limit_w : 0, `${number(worker.power_w)} W`),
    h('dl', null, facts));
}

function charts({ data }) {
  if (data.length < 2) return [h('p', { class: 'soft' }, t('workers.hour.none'))];
  const over = (value) => data.map((sample) => [sample.at, value(sample)]);
  // The newest is of now, and a shorter while after the one before it than those are apart.
  const rate = data.slice(1).map((one, at) => [one.at, (60 * one.finished.succeeded) / Math.max(1, one.at - data[at].at)]);
  const percent = (value) => `${number(value)} %`;
  return [
    areaChart({ label: t('chart.busy'), points: over((one) => (one.workers ? (100 * one.busy) / one.workers : 0)), say: percent, most: 100 }),
    areaChart({ label: t('chart.waiting'), points: over((one) => one.waiting), say: (value) => number(value), most: 4 }),
    areaChart({ label: t('chart.wait'), points: over((one) => one.wait_s), say: duration, most: 10 }),
    areaChart({ label: t('chart.rate'), points: rate, say: (value) => number(value, 1), most: 2 }),
  ];
}

export function workersView(root, { say, sure }) {
  const cards = h('div', { class: 'cards' });
  const queue = h('div', { class: 'models' });
  const hour = h('div', { class: 'charts' });
  const used = h('section', { class: 'panel used' });
  root.replaceChildren(
    h('h1', null, t('workers.title')), cards,
    h('section', { class: 'panel' }, h('h2', null, t('workers.queue')), queue),
    h('section', { class: 'panel' }, h('h2', null, t('workers.hour')), hour), used,
  );
  /** Let a worker leave, which is asked twice; or take that back. */
  const drain = async (worker, back) => {
    if (!back && !(await sure(t('workers.drain.sure', { name: worker.name })))) return;
    try {
      await post(`v1/workers/${encodeURIComponent(worker.name)}/${back ? 'undrain' : 'drain'}`);
      say(t(back ? 'workers.undrained' : 'workers.drained', { name: worker.name }));
    } catch (error) {
      say(problem(error), true);
    }
  };

  function draw({ data, queue: numbers }, started) {
    const focused = document.activeElement?.closest?.('[data-worker]')?.dataset.worker;
    const onButton = document.activeElement?.tagName;
    cards.replaceChildren(...(data.length ? data.map((worker) => card(worker, started, drain)) : [h('p', { class: 'empty' }, t('workers.empty'))]));
    for (const bar of cards.querySelectorAll('[data-share]')) bar.style.width = `${bar.dataset.share}%`;
    // What is drawn anew must not take the keyboard's place away.
    if (focused && onButton === 'BUTTON') cards.querySelector(`[data-worker="${CSS.escape(focused)}"] button`)?.focus();
    const waiting = Object.entries(numbers.by_model || {}).filter((one) => one[1]).sort((a, b) => b[1] - a[1]);
    const most = Math.max(1, ...waiting.map(([, count]) => count));
    queue.replaceChildren(...(waiting.length ? waiting.map(([model, count]) => meter(model, count / most, number(count))) : [h('p', { class: 'soft' }, t('workers.queue.none'))]));
    for (const bar of queue.querySelectorAll('[data-share]')) bar.style.width = `${bar.dataset.share}%`;
  }

  const unwatch = every(() => (liveJobs() ? 2 : 4), async () => {
    await lookAtPool();
    const workers = pool.get();
    const running = workers.data.some((worker) => worker.jobs.length) ? (await listJobs({ state: 'running', limit: 200 })).data : [];
    draw(workers, new Map(running.map((job) => [job.id, job])));
  });
  const unchart = every(10, async () => hour.replaceChildren(...charts(await call('v1/stats/history'))));
  const unused = usagePanel(used);
  return () => {
    unused();
    unwatch();
    unchart();
  };
}
