// Small charts of the last hour.

import { h, s } from './dom.js';
import { duration, t } from './i18n.js';

const WIDTH = 300;
const HEIGHT = 72;

/** A line over time with what is below it filled. `points`: [seconds, value]; a pause longer than `gap` breaks the line. */
export function areaChart({ label, points, say, most = 0, gap = 45 }) {
  const values = points.map(([, value]) => value);
  const top = Math.max(most, ...values) || 1;
  const last = points.at(-1)[0];
  const first = Math.min(points[0][0], last - 60);
  const x = (at) => (((at - first) / (last - first)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 3 - (value / top) * (HEIGHT - 8)).toFixed(1);
  const runs = [];
  for (const [index, point] of points.entries()) {
    if (!index || point[0] - points[index - 1][0] > gap) runs.push([]);
    runs.at(-1).push(point);
  }
  const line = (run) => run.map(([at, value], index) => `${index ? 'L' : 'M'}${x(at)} ${y(value)}`).join('');
  const area = (run) => `${line(run)}L${x(run.at(-1)[0])} ${HEIGHT}L${x(run[0][0])} ${HEIGHT}Z`;
  const words = t('chart.now', { label, now: say(values.at(-1)), most: say(Math.max(...values)) });
  const peak = Math.max(...values);
  return h('figure', { class: 'chart' },
    h('figcaption', null, h('span', null, label), h('strong', null, say(values.at(-1)))),
    s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': words },
      runs.map((run) => s('path', { class: 'area', d: area(run) })), runs.map((run) => s('path', { class: 'curve', d: line(run) }))),
    h('p', { class: 'soft span' }, h('span', null, t('chart.ago', { time: duration(last - first) })), h('span', null, t('chart.peak', { most: say(peak) })), h('span', null, t('chart.end'))));
}
