// What was used of the pool: by day, model or key, as bars and in numbers.

import { call } from './api.js';
import { h, s } from './dom.js';
import { duration, megabytes, number, problem, t } from './i18n.js';
import { every } from './state.js';

const GROUPS = ['day', 'model', 'key'];
const RANGES = [7, 30, 90];
const DAY_MS = 86_400_000;

const chosen = { by: 'day', days: 30 };

/** The service's days are UTC's: "2026-01-31". */
const dayName = (unix) => new Date(unix).toISOString().slice(0, 10);

/** All days of a range, those without use too, the oldest first. */
function wholeRange(data, first, last) {
  const had = new Map(data.map((row) => [row.day, row]));
  const days = [];
  for (let at = Date.parse(first); at <= Date.parse(last) && days.length < 400; at += DAY_MS) {
    const day = dayName(at);
    days.push(had.get(day) || { day, succeeded: 0, failed: 0, cancelled: 0, gpu_s: 0, lost_gpu_s: 0, bytes: 0 });
  }
  return days;
}

/** A column a day: GPU time of results, and on top of it what came to nothing. */
function columns(days) {
  const most = Math.max(1e-9, ...days.map((row) => row.gpu_s + row.lost_gpu_s));
  const total = days.reduce((sum, row) => sum + row.gpu_s + row.lost_gpu_s, 0);
  const bars = days.flatMap((row, at) => {
    const [good, lost] = [(96 * row.gpu_s) / most, (96 * row.lost_gpu_s) / most];
    const bar = (kind, y, height) => (height > 0 ? s('rect', { class: kind, x: at + 0.1, width: 0.8, y: 100 - y - height, height }) : null);
    return [bar('area', 0, good), bar('lost', good, lost)];
  });
  return h('figure', { class: 'chart columns' },
    h('figcaption', null, h('span', null, `${days[0].day} – ${days.at(-1).day}`), h('strong', null, duration(total))),
    s('svg', { viewBox: `0 0 ${days.length} 100`, preserveAspectRatio: 'none', role: 'img', 'aria-label': t('usage.chart', { total: duration(total), most: duration(most) }) }, bars));
}

function table(by, rows) {
  const cells = (row) => [row.succeeded, row.failed, row.cancelled].map((count) => number(count)).concat(duration(row.gpu_s), row.lost_gpu_s > 0 ? duration(row.lost_gpu_s) : '–', megabytes(row.bytes / 1e6));
  const labels = ['succeeded', 'failed', 'cancelled', 'gpu', 'lost', 'bytes'].map((name) => t(`usage.${name}`));
  const head = labels.map((label) => h('th', { scope: 'col' }, label));
  return h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': t('usage.title') }, h('table', null,
    h('thead', null, h('tr', null, h('th', { scope: 'col' }, t(`usage.by.${by}`)), head)),
    h('tbody', null, rows.map((row) => h('tr', null, h('th', { scope: 'row' }, row[by] || t('usage.nokey')), cells(row).map((words, at) => h('td', { 'data-label': labels[at] }, words)))))));
}

/** Show it in `root`, asked for anew each minute; returns what ends it. */
export function usagePanel(root) {
  const body = h('div', { class: 'models' });
  const pick = (name, value, words) => h('button', { type: 'button', class: 'chip', 'data-pick': `${name} ${value}`, onclick: () => ((chosen[name] = value), draw()) }, words);
  const picks = h('div', { class: 'chips apart' }, h('div', { class: 'chips' }, GROUPS.map((by) => pick('by', by, t(`usage.by.${by}`)))), h('div', { class: 'chips' }, RANGES.map((days) => pick('days', days, t('usage.days', { days })))));
  root.replaceChildren(h('h2', null, t('usage.title')), picks, body);
  let turn = 0;

  async function draw() {
    const mine = (turn += 1);
    for (const one of picks.querySelectorAll('button')) one.setAttribute('aria-pressed', String([`by ${chosen.by}`, `days ${chosen.days}`].includes(one.dataset.pick)));
    const { by, days } = chosen;
    let found;
    try {
      found = await call(`v1/usage?by=${by}&from=${dayName(Date.now() - (days - 1) * DAY_MS)}`);
    } catch (error) {
      if (mine === turn) body.replaceChildren(h('p', { class: 'bad' }, problem(error)));
      return;
    }
    if (mine !== turn) return;
    if (!found.data.length) {
      body.replaceChildren(h('p', { class: 'soft' }, t('usage.none')));
      return;
    }
    const rows = by === 'day' ? [...found.data].sort((a, b) => (a.day < b.day ? 1 : -1)) : [...found.data].sort((a, b) => b.gpu_s + b.lost_gpu_s - a.gpu_s - a.lost_gpu_s);
    body.replaceChildren(...(by === 'day' ? [columns(wholeRange(found.data, found.first_day, found.last_day))] : []), table(by, rows), ...(found.has_more ? [h('p', { class: 'soft' }, t('usage.more'))] : []));
  }

  return every(60, draw);
}
