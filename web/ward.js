// The ward on the screen: sign-in, one tile per patient, the header, the latest events, acknowledging.
//
// Guarantees: every value is shown with its age, and suspect or old values look so; a stream that is not live, a
// script that failed or stopped, each covers the page with words that say it; what the server warns of stands above the
// tiles; alerts that nobody has acknowledged come before those that somebody has, and are counted apart; a tile moves only when its own alert state changes (or, once a minute while nobody touches the page, its NEWS2
// band), and never under a moving finger.
// Does not guarantee: a sound, a record of what was seen, or that the token's claims, read here only to choose which
// buttons to show, are true: the server decides.

import { Feed, Refused } from '/feed.js';
import { amount, build, human, make, MARK, moment, paint, paintAges, paintTrace, put, rankOf, span } from '/tile.js';

const QUIET_MS = 12_000; // the server speaks at least every 10 s
const DARK_MS = 3_000; // a stream may be away this long before the page is marked as not current
const LIST_OLD_MS = 150_000;
const HANDS_OFF_MS = 1_500;
const HANDS_OFF_MS_MAX = 10_000;
const IDLE_MS = 30_000;
const ENDING_MS = 10 * 60_000; // a session that ends within this says so
const SESSION_MS_MAX = 10_000;
const EVENTS_MAX = 60;
const SPOKEN_MAX = 3;
const TOKEN = 'vitals.token', WARD = 'vitals.ward', NO_WARD = '(none)';

const $ = id => document.getElementById(id);
const collator = new Intl.Collator(undefined, { numeric: true });
const tiles = new Map(), dirty = new Set(), spoken = [];
let feed, session, signInAt = '', claims = {}, frame = 0, unordered = 0, touchedAt = -Infinity, failed = '', acking, ward = localStorage.getItem(WARD) ?? '';

// ---- tiles

const seer = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const tile = tiles.get(target.dataset.patient);
    if (!tile) continue;
    tile.seen = isIntersecting;
    if (isIntersecting) change(tile.patient);
  }
});

function show(patient) {
  let tile = tiles.get(patient.id);
  if (!tile) {
    tiles.set(patient.id, tile = build(patient));
    $('grid').append(tile.root);
    seer.observe(tile.root);
  }
  tile.root.hidden = !shown(patient);
  paint(tile, feed.now(), mayAck() && askAck);
  const alerts = JSON.stringify(patient.alerts.map(alert => [alert.id, alert.priority, !!alert.acknowledged]).sort());
  if (tile.order?.alerts !== alerts) {
    rank(tile, alerts);
    for (const alert of patient.alerts) note({ ...alert, alertId: alert.id, patientId: patient.id, state: 'raised' }, alert.since);
  }
  if (!tile.seen) return;
  paintTrace(tile, feed.now());
  if (tile.asked) return;
  tile.asked = true;
  feed.history(patient).catch(() => { tile.asked = false; }); // asked again with the next change
}

// ---- order: whom nobody has answered yet comes first; a tile gets its place when its alerts change, and keeps it

function rank(tile, alerts) {
  const { patient } = tile, { open, worst, since } = standing(patient);
  tile.order = { alerts, open, worst, since, score: patient.news2?.score ?? -1, band: patient.news2?.band };
  unordered ||= performance.now();
}

/** The worst alert of those that nobody has acknowledged; of all, where each is acknowledged. */
function standing(patient) {
  const waiting = patient.alerts.filter(alert => !alert.acknowledged), of = waiting.length ? waiting : patient.alerts;
  const worst = Math.min(9, ...of.map(rankOf));
  const since = Math.min(Infinity, ...of.filter(alert => rankOf(alert) === worst).map(alert => Date.parse(alert.since) || 0));
  return { open: waiting.length, worst, since };
}

function inOrder({ order: a, patient: p }, { order: b, patient: q }) {
  return (b.open > 0) - (a.open > 0) || a.worst - b.worst || (a.since === b.since ? 0 : a.since - b.since) || b.score - a.score || collator.compare(p.id, q.id);
}

function reorder() {
  const now = performance.now();
  if (now - touchedAt < HANDS_OFF_MS && now - unordered < HANDS_OFF_MS_MAX) return;
  unordered = 0;
  const focused = document.activeElement, grid = $('grid');
  [...tiles.values()].sort(inOrder).forEach(({ root }, i) => { if (grid.children[i] !== root) grid.insertBefore(root, grid.children[i]); });
  if (document.activeElement !== focused) focused?.focus({ preventScroll: true });
}

function change(patient) {
  dirty.add(patient);
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  if (!feed) return;
  const now = [...dirty];
  dirty.clear();
  for (const patient of now) if (feed.patients.get(patient.id) === patient && patient.known) show(patient);
  if (unordered) reorder();
  if (now.length) paintHeader();
}

// ---- header and connection

const shown = patient => ward === '' || (patient.ward ?? NO_WARD) === ward;

function paintHeader() {
  const all = [...tiles.values()].map(tile => tile.patient), here = all.filter(shown);
  const wards = [...new Set(all.map(patient => patient.ward ?? NO_WARD))].sort(collator.compare);
  if (feed.list.at && ward && !wards.includes(ward)) wards.push(ward);
  const options = wards.join('\n');
  if ($('wards').dataset.options !== options) {
    $('wards').dataset.options = options;
    $('wards').replaceChildren(new Option('All wards', ''), ...wards.map(name => new Option(name === NO_WARD ? 'Without a ward' : `Ward ${name}`, name)));
  }
  $('wards').value = ward;
  $('filter').hidden = wards.length < 2 && !ward;
  $('title').hidden = !$('filter').hidden;
  put($('title'), wards.length === 1 && wards[0] !== NO_WARD ? `Ward ${wards[0]}` : 'Ward');
  const count = (list, which) => list.reduce((sum, patient) => sum + patient.alerts.filter(which).length, 0);
  const any = () => true, waits = alert => !alert.acknowledged;
  const alerts = count(here, any), open = count(here, waits), elsewhere = count(all, any) - alerts, openElsewhere = count(all, waits) - open;
  put($('patients-count'), `${here.length} ${here.length === 1 ? 'patient' : 'patients'}`);
  put($('open-count'), open ? `${open} unacknowledged` : '');
  $('open-count').hidden = !open;
  put($('alerts-count'), `${alerts || 'no'} active ${alerts === 1 ? 'alert' : 'alerts'}${alerts && !open ? `, ${alerts === 1 ? '' : 'all '}acknowledged` : ''}`);
  put($('elsewhere-count'), elsewhere ? `${elsewhere} in other wards${openElsewhere ? `, ${openElsewhere} unacknowledged` : ''}` : '');
  $('elsewhere-count').hidden = !elsewhere;
  $('empty').hidden = here.length > 0;
  put($('empty'), feed.list.at ? 'No patients.' : feed.list.error || 'Loading…');
  $('no-events').hidden = $('events').childElementCount > 0;
}

function paintLink() {
  const { link, list } = feed, now = Date.now(), quietMs = now - link.heardAt, live = link.state === 'live' && quietMs < QUIET_MS;
  const lastEvent = link.eventAt ? `last event ${span(now - link.eventAt)} ago` : 'no event yet';
  $('link').dataset.state = live ? 'live' : link.state === 'live' ? 'quiet' : link.state;
  put($('link-text'), live ? `live · ${lastEvent}` : link.state === 'live' ? `silent for ${span(quietMs)}` : `${link.state}… ${lastEvent}`);
  const dark = link.state === 'live' ? quietMs > 2 * QUIET_MS : now - link.since > DARK_MS;
  const listOld = list.at > 0 && now - list.at > LIST_OLD_MS;
  const ending = session && Date.parse(session.endsAt) - feed.now() < ENDING_MS;
  const kind = failed ? 'failed' : dark ? 'dark' : listOld ? 'list' : ending ? 'ending' : feed.warnings.length ? 'warned' : '';
  if (kind === 'failed') band('This page has failed.', `Nothing on it is sure to be current. Reload it. (${failed})`);
  else if (kind === 'dark') band('Not live.', link.heardAt ? `No data since ${moment(link.heardAt + feed.skewMs, feed.now())} (${span(quietMs)}). What you see is not current: look at the bedside monitors.` : 'The server’s stream cannot be reached. Look at the bedside monitors.');
  else if (kind === 'list') band('Scores are old.', `NEWS2 and alerts could not be refreshed for ${span(now - list.at)}. ${list.error}`);
  else if (kind === 'ending') band('Your session ends soon.', `At ${moment(session.endsAt, feed.now())} this page will show nothing until somebody signs in again.`);
  else if (kind === 'warned') band('The server warns.', `${feed.warnings.map(text => text.replace(/^./, first => first.toUpperCase())).join('. ')}. Tell whoever runs it, and look at the bedside monitors: a page may be missing.`);
  $('band').hidden = !kind;
  $('retry').hidden = kind === 'list' || kind === 'warned';
  put($('retry'), { failed: 'Reload', ending: 'Sign in again' }[kind] ?? 'Try now');
  $('retry').dataset.does = kind;
  document.body.classList.toggle('is-dark', kind === 'dark' || kind === 'failed');
  const alerts = [...tiles.values()].filter(tile => shown(tile.patient) && tile.order?.open > 0).length;
  document.title = kind === 'dark' || kind === 'failed' ? '⚠ NOT LIVE' : `${alerts ? `(${alerts}) ` : ''}${ward && ward !== NO_WARD ? `Ward ${ward}` : 'Ward'}`;
}

function band(title, text) {
  put($('band-title'), title);
  put($('band-text'), text);
}

// The page's own dead man's switch: an animation that shows `#stopped` unless this script winds it back every second.
// It is declared in ward.css and runs outside the script, so it also shows when the script hangs or never came.
const [holdBack] = $('stopped').getAnimations();

function tick() {
  holdBack.currentTime = 0;
  if (!feed) return;
  put($('clock'), moment(feed.now(), feed.now()));
  paintLink();
  if (document.hidden) return;
  for (const tile of tiles.values()) if (!tile.root.hidden) paintAges(tile, feed.now());
  if (unordered) frame ||= requestAnimationFrame(draw);
  if (spoken.length) {
    const more = spoken.length - SPOKEN_MAX;
    put($('announce'), spoken.splice(0).slice(0, SPOKEN_MAX).join('. ') + (more > 0 ? ` and ${more} more` : ''));
  }
}

// ---- events

function note(event, at) {
  const key = `${event.alertId} ${event.state}`, list = $('events');
  if ([...list.children].some(item => item.dataset.key === key)) return;
  const item = make('li', 'event'), time = make('time', '', moment(at, feed.now())), mark = make('span', 'mark', event.state === 'raised' ? MARK[event.priority] ?? '!' : { cleared: '○', acknowledged: '✓' }[event.state] ?? '…');
  Object.assign(item.dataset, { key, state: event.state, priority: event.priority, at: Date.parse(at) || 0 });
  const value = amount(event.value, event.unit), missed = event.state === 'missed';
  const what = make('span', 'what', `${human(event.event)} `);
  what.append(make('span', 'how', event.state === 'gap' ? 'while not connected: some alerts raised and cleared may not be listed' : missed ? `recorded late, for review${value && ` · ${value}`}` : event.state === 'raised' && value ? `raised at ${value}` : event.state));
  item.append(time, mark, make('b', 'whom', event.patientId), what);
  const older = [...list.children].find(other => Number(other.dataset.at) <= Number(item.dataset.at));
  list.insertBefore(item, older ?? null);
  while (list.childElementCount > EVENTS_MAX) list.lastElementChild.remove();
  if (event.state === 'raised' && item.isConnected) spoken.push(`${event.priority} priority: ${human(event.event)}, patient ${event.patientId}, ${value}`);
}

function heardGap() {
  for (const tile of tiles.values()) tile.asked = false; // the traces have a hole: ask for them again
  note({ alertId: Date.now(), state: 'gap', event: 'events_missing', patientId: '', priority: 'technical' }, new Date(feed.now()).toISOString());
}

function heardReload() {
  const idle = performance.now() - touchedAt > IDLE_MS;
  for (const tile of tiles.values()) if (idle && tile.order && tile.order.band !== tile.patient.news2?.band) rank(tile, tile.order.alerts);
  paintHeader();
}

function heardRemoved(patient) {
  const tile = tiles.get(patient.id);
  tile?.root.remove();
  tiles.delete(patient.id);
}

// ---- signing in and out

function readClaims(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), c => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {}; // not a JWT: the server will say so
  }
}

function signIn(token, store) {
  signOut('');
  store.setItem(TOKEN, token);
  claims = readClaims(token);
  open({ token });
}

/** By the cookie that the browser holds and no script can read. */
function resume(found) {
  signOut('');
  session = found;
  claims = { sub: found.name, scope: found.scopes?.join(' ') };
  put($('whoami'), found.name);
  $('whoami').title = `${found.name} (${found.subject}), ${found.tenant}`;
  $('whoami').hidden = false;
  open({ csrf: found.csrf });
}

function open(by) {
  $('signin').hidden = true;
  $('ward').hidden = false;
  feed = new Feed(by, { changed: change, removed: heardRemoved, alert: event => note(event, event.recordedAt ?? event.measuredAt), gap: heardGap, reloaded: heardReload, denied: signOut });
  paintHeader();
  tick();
}

function signOut(why) {
  feed?.stop();
  feed = undefined;
  sessionStorage.removeItem(TOKEN);
  localStorage.removeItem(TOKEN);
  claims = {};
  session = undefined;
  $('whoami').hidden = true;
  for (const tile of tiles.values()) seer.unobserve(tile.root);
  tiles.clear();
  dirty.clear();
  spoken.length = 0;
  for (const id of ['grid', 'events']) $(id).replaceChildren();
  put($('announce'), '');
  if ($('ack').open) $('ack').close();
  document.body.classList.remove('is-dark');
  document.title = 'Ward';
  $('ward').hidden = true;
  $('signin').hidden = false;
  $('token').value = '';
  $('signin-error').hidden = !why;
  put($('signin-error'), why.replace(/^./, first => first.toUpperCase()));
  offer(!signInAt);
  $(signInAt ? 'signin-go' : 'token').focus();
}

/** The identity provider first, where there is one; a token where there is none, or somebody wants to paste one. */
function offer(token) {
  $('signin-go').hidden = !signInAt;
  $('signin-token').hidden = !signInAt || token;
  $('by-token').hidden = !token;
  put($('signin-lead'), signInAt ? 'Sign in to see the patients live.' : 'Paste your access token to see the patients live.');
}

const goSignIn = () => location.assign(`${signInAt}?return=${encodeURIComponent(location.pathname + location.search)}`);

/** Whether a session of this browser goes on, and where one begins. */
async function askSession() {
  const response = await fetch('/auth/session', { cache: 'no-store', signal: AbortSignal.timeout(SESSION_MS_MAX) });
  if (!response.ok) throw await Refused.from(response);
  const found = await response.json();
  signInAt = found.signIn ?? '';
  return found;
}

async function begin() {
  try {
    const found = await askSession();
    if (feed) return; // a token came meanwhile
    found.signedIn ? resume(found) : signOut(found.why ?? '');
  } catch (error) {
    if (!feed) signOut(error.status ? error.message : 'The server cannot be reached.');
  }
}

async function endSession() {
  const { csrf } = session;
  signOut('');
  try {
    const response = await fetch('/auth/logout', { method: 'POST', headers: { 'X-CSRF-Token': csrf }, signal: AbortSignal.timeout(SESSION_MS_MAX) });
    if (!response.ok && response.status !== 401) throw await Refused.from(response);
    const { next } = response.ok ? await response.json() : {};
    if (next && next !== '/') location.assign(next);
  } catch (error) {
    signOut(`You are still signed in here: ${error.status ? error.message : 'the server cannot be reached'}. Reload the page and sign out again.`);
  }
}

const mayAck = () => String(claims.scope ?? '').split(' ').includes('alerts:ack');

function takeFragment() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token');
  if (!token) return false;
  history.replaceState(null, '', location.pathname + location.search);
  signIn(token, sessionStorage);
  return true;
}

// ---- acknowledging

function askAck(patient, alert) {
  acking = { patient, alert };
  put($('ack-what'), `${human(alert.event)}, patient ${patient.id}${patient.ward ? `, ward ${patient.ward}` : ''}`);
  $('ack-by').value = claims.sub ?? '';
  $('ack-note').value = '';
  $('ack-error').hidden = true;
  $('ack').showModal();
  $('ack-send').focus();
}

async function sendAck(submit) {
  submit.preventDefault();
  const { patient, alert } = acking;
  $('ack-send').disabled = true;
  try {
    await feed.acknowledge(alert, patient.id, $('ack-by').value.trim(), $('ack-note').value.trim());
    $('ack').close();
  } catch (error) {
    put($('ack-error'), error.status ? error.message : 'The server cannot be reached. The alert is not acknowledged.');
    $('ack-error').hidden = false;
  } finally {
    $('ack-send').disabled = false;
  }
}

// ---- wiring

function fail(error) {
  failed = String(error?.message ?? error ?? 'unknown error').slice(0, 200);
  if (feed) paintLink();
}

addEventListener('error', event => fail(event.error ?? event.message));
addEventListener('unhandledrejection', event => fail(event.reason));
addEventListener('hashchange', takeFragment);
addEventListener('online', () => feed?.retryNow());
document.addEventListener('visibilitychange', tick);
for (const kind of ['pointermove', 'pointerdown', 'keydown']) $('grid').addEventListener(kind, () => { touchedAt = performance.now(); }, { passive: true });
$('signin-form').addEventListener('submit', event => {
  event.preventDefault();
  const token = $('token').value.replace(/^\s*bearer\s+/i, '').replace(/\s+/g, '');
  if (token) signIn(token, $('keep').checked ? localStorage : sessionStorage);
});
$('signout').addEventListener('click', () => (session ? endSession() : signOut('')));
$('signin-go').addEventListener('click', goSignIn);
$('signin-token').addEventListener('click', () => {
  offer(true);
  $('token').focus();
});
$('retry').addEventListener('click', event => (failed ? location.reload() : event.target.dataset.does === 'ending' ? goSignIn() : feed.retryNow()));
$('wards').addEventListener('change', () => {
  ward = $('wards').value;
  localStorage.setItem(WARD, ward);
  for (const tile of tiles.values()) change(tile.patient);
  paintHeader();
});
$('ack-form').addEventListener('submit', sendAck);
$('ack-cancel').addEventListener('click', () => $('ack').close());
setInterval(tick, 1_000);

const stored = sessionStorage.getItem(TOKEN) ?? localStorage.getItem(TOKEN);
if (!takeFragment() && stored) signIn(stored, localStorage.getItem(TOKEN) ? localStorage : sessionStorage);
feed ? askSession().catch(error => console.warn('where to sign in is not known', error)) : begin();
tick();
