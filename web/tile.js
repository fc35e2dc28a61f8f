// One patient's tile: how a patient of feed.js becomes text, a line and an alert that cannot be overlooked.
//
// Guarantees: a value is never shown without its age; suspect values are struck and named, old ones dimmed, missing ones
// a dash; only text that differs is written, so 200 readings a second cost little.
// Does not guarantee: the tile's place or whether it is visible; ward.js decides. Values are rounded for reading
// (temperature to 0.1, the rest to whole numbers); the server's number is what rules and NEWS2 use.

import { BUCKET_MS, TRACE_MS } from '/feed.js';

const OLD_MS = 5 * 60_000;
const TRACE_GAP_BUCKETS = 180_000 / BUCKET_MS;
const TRACE_BUCKETS_MIN = 60_000 / BUCKET_MS;
const TRACE_WIDTH = 180; // of the template's viewBox
const TRACE_SPAN_MIN = 30; // beats per minute: noise is not drawn as drama

const RANK = { high: 0, medium: 1, low: 2, technical: 3 };
export const MARK = { high: '!!!', medium: '!!', low: '!', technical: '⚙\ufe0e' };
const UNITS = { '/min': '/min', '%': '%', 'mm[Hg]': 'mmHg', Cel: '°C', 'mg/dL': 'mg/dL', kg: 'kg', 'L/min': 'L/min', ms: 'ms' };
const DIGITS = { body_temperature: 1 };
const WORDS = { SPO2: 'SpO₂', BP: 'BP', NEWS2: 'NEWS2' };

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dayAndClock = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

// ---- words

export const human = name => name.split('_').map(word => WORDS[word.toUpperCase()] ?? word.toLowerCase()).join(' ').replace(/^./, first => first.toUpperCase());
export const amount = (value, unit) => (value == null ? '' : `${Math.round(value * 10) / 10} ${UNITS[unit] ?? ''}`.trim());
export const rankOf = alert => RANK[alert.priority] ?? RANK.low;

/** A time of day; with the date when that is not today's. `at` is anything `Date` takes, `now` in ms. */
export function moment(at, now) {
  const date = new Date(at);
  if (isNaN(date)) return '–';
  return (Math.abs(now - date) > 20 * 3_600_000 ? dayAndClock : clock).format(date);
}

/** A length of time in its largest whole unit. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

/** Writes only what differs: at 200 readings a second most of the page is already right. */
export function put(element, text) {
  const node = element.firstChild ?? element.appendChild(document.createTextNode(''));
  if (node.data !== text) node.data = text;
}

export function make(tag, className, text = '') {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// ---- the tile

/** A new tile for the patient, from the page's template, not yet in the document. */
export function build(patient) {
  const root = document.getElementById('tile').content.firstElementChild.cloneNode(true), at = selector => root.querySelector(selector);
  root.dataset.patient = patient.id;
  put(at('.id'), patient.id);
  at('h2').classList.toggle('long', patient.id.length > 12);
  const cells = [...root.querySelectorAll('.vital')].map(cell => ({
    root: cell, names: cell.dataset.vitals.split(' '), at: NaN,
    value: cell.querySelector('.value'), age: cell.querySelector('.age'), suspect: cell.querySelector('.suspect'),
  }));
  return { patient, root, cells, since: [], alertsShown: '[]', order: null,
    ward: at('.ward'), news: at('.news'), score: at('.score'), band: at('.bandname'), tip: at('.tip-text'),
    alerts: at('.alerts'), technical: at('.technical'), line: at('.line'), point: at('.point'), range: at('.range') };
}

/** Shows the patient as it is at `now`. `askAck(patient, alert)`, if given, is behind each alert's button. */
export function paint(tile, now, askAck) {
  const { patient } = tile;
  put(tile.ward, patient.ward ?? '');
  for (const cell of tile.cells) paintCell(cell, patient);
  paintNews(tile, patient.news2);
  paintAlerts(tile, now, askAck);
  paintAges(tile, now);
}

function paintCell(cell, patient) {
  const vitals = cell.names.map(name => patient.vitals[name]);
  const known = vitals.filter(Boolean);
  put(cell.value, known.length ? vitals.map((vital, i) => (vital ? vital.value.toFixed(DIGITS[cell.names[i]] ?? 0) : '–')).join('/') : '–');
  cell.at = known.length ? Math.min(...known.map(vital => vital.at)) : NaN;
  const suspect = known.some(vital => vital.suspect);
  cell.root.classList.toggle('is-suspect', suspect);
  cell.suspect.hidden = !suspect;
  const alerts = patient.alerts.filter(alert => cell.names.includes(alert.vital) && rankOf(alert) < RANK.technical);
  const worst = alerts.sort((a, b) => rankOf(a) - rankOf(b))[0]?.priority ?? '';
  if ((cell.root.dataset.priority ?? '') !== worst) cell.root.dataset.priority = worst;
}

function paintNews(tile, news2) {
  put(tile.score, String(news2?.score ?? '–'));
  put(tile.band, [news2?.band, news2?.partial && 'partial'].filter(Boolean).join(', '));
  tile.news.dataset.band = news2?.band ?? '';
  tile.news.classList.toggle('is-partial', !!news2?.partial);
  const names = list => list.map(human).join(', ');
  const parts = Object.entries(news2?.parts ?? {}).map(([vital, points]) => `${human(vital)} ${points}`).join(', ');
  put(tile.tip, [
    news2?.missing?.length && `Missing: ${names(news2.missing)}.`,
    news2?.stale?.length && `Stale: ${names(news2.stale)}.`,
    parts ? `Points: ${parts}.` : 'No score yet.',
  ].filter(Boolean).join(' '));
}

function paintAlerts(tile, now, askAck) {
  const { patient } = tile;
  const alerts = [...patient.alerts].sort((a, b) => !!a.acknowledged - !!b.acknowledged || rankOf(a) - rankOf(b) || Date.parse(a.since) - Date.parse(b.since));
  const shownNow = JSON.stringify(alerts.map(a => [a.id, a.priority, a.event, a.value, a.acknowledged]));
  if (tile.alertsShown === shownNow) return;
  tile.alertsShown = shownNow;
  tile.since = [];
  for (const [box, technical] of [[tile.alerts, false], [tile.technical, true]]) {
    const here = alerts.filter(alert => (rankOf(alert) === RANK.technical) === technical);
    box.replaceChildren(...here.map(alert => alertLine(tile, alert, now, askAck)));
    box.hidden = !here.length;
  }
  tile.root.dataset.priority = alerts[0]?.priority ?? '';
  tile.root.classList.toggle('is-acked', alerts.length > 0 && alerts.every(alert => alert.acknowledged));
  // All flashing in one beat: many tiles out of step would be noise.
  requestAnimationFrame(() => { for (const animation of document.getAnimations()) if (animation.animationName?.startsWith('flash')) animation.startTime = 0; });
}

function alertLine(tile, alert, now, askAck) {
  const line = make('div', 'alert'), since = make('span', 'since'), detail = make('span', 'detail');
  line.dataset.priority = alert.priority;
  line.classList.toggle('is-acked', !!alert.acknowledged);
  const mark = make('span', 'mark', MARK[alert.priority] ?? '!');
  const name = make('strong', 'name', human(alert.event));
  mark.append(make('span', 'unseen', ` ${alert.priority} priority: `));
  const value = amount(alert.value, alert.unit);
  detail.append(value && `at ${value}`, value ? ' · ' : '', since);
  tile.since.push({ element: since, at: Date.parse(alert.since) });
  if (alert.acknowledged) {
    const { by, at } = alert.acknowledged;
    detail.append(` · ✓ ${by ? `${by} ` : 'acknowledged '}${at ? moment(at, now) : ''}`);
    detail.title = ['Acknowledged', by && `by ${by}`, alert.acknowledged.note && `: ${alert.acknowledged.note}`].filter(Boolean).join(' ');
  }
  line.append(mark, name, detail);
  if (!alert.acknowledged && askAck) {
    const button = make('button', 'ack', 'Ack');
    button.type = 'button';
    button.setAttribute('aria-label', `Acknowledge ${human(alert.event)}, patient ${tile.patient.id}`);
    button.addEventListener('click', () => askAck(tile.patient, alert));
    line.append(button);
  }
  return line;
}

export function paintAges(tile, now) {
  for (const cell of tile.cells) {
    put(cell.age, Number.isNaN(cell.at) ? 'no value' : span(now - cell.at));
    cell.root.classList.toggle('is-old', !(now - cell.at <= OLD_MS));
  }
  for (const { element, at } of tile.since) put(element, span(now - at));
}

/** Draws the heart rate of the last 15 minutes, or of as much as there is: each 5 s from its lowest to its highest, broken where nothing came for 3 min. */
export function paintTrace(tile, now) {
  const last = Math.floor(now / BUCKET_MS), oldest = last - TRACE_MS / BUCKET_MS;
  const points = [...tile.patient.trace].filter(([bucket]) => bucket >= oldest).sort((a, b) => a[0] - b[0]);
  // A trace that has just begun fills the width, too: a few seconds of 15 minutes would be a smear.
  const buckets = Math.min(TRACE_MS / BUCKET_MS, Math.max(TRACE_BUCKETS_MIN, last - (points[0]?.[0] ?? last)));
  const first = last - buckets;
  const low = Math.min(...points.map(([, seen]) => seen.low)), high = Math.max(...points.map(([, seen]) => seen.high));
  const middle = (low + high) / 2, reach = Math.max(high - low, TRACE_SPAN_MIN);
  const place = (bucket, value) => `${(((bucket - first) * TRACE_WIDTH) / buckets).toFixed(1)} ${(50 - (90 * (value - middle)) / reach).toFixed(1)}`;
  let path = '', before = -Infinity;
  for (const [bucket, seen] of points) {
    path += `${bucket - before > TRACE_GAP_BUCKETS ? 'M' : 'L'}${place(bucket, seen.low)}`;
    if (seen.high !== seen.low) path += `L${place(bucket, seen.high)}`;
    before = bucket;
  }
  if (tile.path === path) return;
  tile.path = path;
  tile.line.setAttribute('d', path);
  tile.point.setAttribute('d', points.length ? `M${place(before, (points.at(-1)[1].low + points.at(-1)[1].high) / 2)}h0` : '');
  put(tile.range, points.length ? `${Math.ceil((buckets * BUCKET_MS) / 60_000)} min  ${Math.round(low)}–${Math.round(high)}` : '');
}
