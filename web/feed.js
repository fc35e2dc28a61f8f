// The ward as the server tells it: requests, the live stream, and the patients held in memory.
//
// Guarantees: the stream is open before the list is asked for, and what the stream said wins over a fetch that
// may not know it yet, so nothing falls between the two; a stream that breaks or is silent for 25 s is opened
// again from the last event seen; a token travels only in the Authorization header, and a session in its cookie, with
// the proof that it was this page (X-CSRF-Token) on whatever changes something.
// Does not guarantee: that an event was never missed when the server refuses to resume (it says so through
// `told.gap`, and the list heals the values; after a restore of the log everybody is asked for anew); nor anything
// about the DOM, which it never touches.

const SILENCE_MS_MAX = 25_000; // the server sends at least a comment every 10 s
const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 10_000;
const RETRY_AFTER_MS_MAX = 30_000;
const STEADY_MS_MIN = 5_000; // a connection that lived this long starts the backoff anew
const REQUEST_MS_MAX = 20_000;
const RELOAD_MS = 60_000;
const COALESCE_MS = 150;
const BEHIND_MS_MAX = 15_000; // how far a read may lag the stream
const BEHIND_RETRY_MS = 2_000;
const UNKNOWN_RETRY_MS = 10_000;
const REQUESTS_MAX = 4;
const REFRESH_SINGLY_MAX = 20; // more patients at once are cheaper as one list
const PAGES_MAX = 100;
const HISTORY_PAGES_MAX = 4;
const LINE_CHARS_MAX = 1 << 20;
export const TRACE_MS = 15 * 60_000;
export const BUCKET_MS = 5_000;
const BUCKETS_MAX = 2 * (TRACE_MS / BUCKET_MS);

/** The server's refusal. `detail` is its own sentence, fit to be shown; `afterMs` its Retry-After. */
export class Refused extends Error {
  static async from(response) {
    const problem = await response.json().catch(() => ({}));
    const refused = new Refused(problem.detail || problem.title || `The server answered ${response.status}.`);
    refused.status = response.status;
    refused.afterMs = 1000 * Number(response.headers.get('retry-after')) || 0;
    return refused;
  }
}

/** Takes the stream's bytes in any slices and calls `onMessage({type, data, id})` for each whole event. */
export function sseParser(onMessage) {
  const decoder = new TextDecoder();
  let rest = '', afterCr = false, type = '', data = [], id = '', moved = false;
  const line = text => {
    if (text === '') {
      // An id alone moves the place: the server sends it when there was nothing to show.
      if (data.length || moved) onMessage({ type: type || 'message', data: data.join('\n'), id });
      type = '';
      data = [];
      moved = false;
      return;
    }
    const colon = text.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data.push(value);
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) [id, moved] = [value, true];
  };
  return bytes => {
    let text = decoder.decode(bytes, { stream: true });
    if (text === '') return;
    // A CR ends its line at once; the LF that may open the next slice belongs to it.
    if (afterCr && text[0] === '\n') text = text.slice(1);
    afterCr = text === '' ? false : text.endsWith('\r');
    const lines = (rest + text).split(/\r\n|\n|\r/);
    rest = lines.pop();
    if (rest.length > LINE_CHARS_MAX) throw new Error('a line of the stream is too long');
    lines.forEach(line);
  };
}

function reading(r, heardAt) {
  if (!Number.isFinite(r.value)) throw new Error('a reading without a number');
  return { value: r.value, unit: r.unit, suspect: r.quality === 'suspect', at: Date.parse(r.measuredAt), heardAt };
}

export class Feed {
  /** `by` is `{ token }`, or `{ csrf }` of a session. `told` hears: changed(patient), removed(patient), alert(event), gap(), reloaded(), denied(detail). */
  constructor(by, told) {
    this.by = by;
    this.told = told;
    this.patients = new Map();
    this.link = { state: 'connecting', since: Date.now(), heardAt: 0, eventAt: 0 };
    this.list = { at: 0, error: '' };
    this.warnings = [];
    this.skewMs = 0;
    this.ended = new AbortController();
    this.wanted = new Set();
    this.waiting = [];
    this.busy = 0;
    this.lastEventId = '';
    this.#follow();
  }

  /** The server's clock: a ward screen that is minutes off must not make values look fresh or old. */
  now() { return Date.now() + this.skewMs; }

  stop() {
    this.ended.abort();
    clearTimeout(this.reloadTimer);
    clearTimeout(this.refreshTimer);
    this.connection?.abort();
    this.wake?.();
  }

  /** Do not wait for the backoff: somebody is looking, or the network is back. */
  retryNow() { this.wake?.(); }

  async acknowledge(alert, patientId, by, note) {
    await this.#ask(`/alerts/${encodeURIComponent(alert.id)}/ack`, { method: 'POST', body: JSON.stringify({ by, note }), headers: { 'Content-Type': 'application/json' } });
    this.#learn(this.#patient(patientId), { ...alert, acknowledged: { by, at: new Date(this.now()).toISOString(), note } });
    this.refresh(patientId);
  }

  /** Asks for a patient's state soon; many wishes become one request. */
  refresh(patientId) {
    this.wanted.add(patientId);
    this.refreshTimer ??= setTimeout(() => {
      const ids = [...this.wanted];
      this.wanted.clear();
      this.refreshTimer = undefined;
      if (ids.length > REFRESH_SINGLY_MAX) this.#reload();
      else for (const id of ids) this.#refreshOne(id);
    }, COALESCE_MS);
  }

  /** Fills the patient's heart rate trace for the last 15 minutes. */
  async history(patient) {
    const from = new Date(this.now() - TRACE_MS).toISOString();
    const path = `/patients/${encodeURIComponent(patient.id)}/readings?vital=heart_rate&from=${encodeURIComponent(from)}&limit=500`;
    for (let page = 0, cursor = ''; page < HISTORY_PAGES_MAX && cursor !== null; page++) {
      const { items, next } = await this.#limited(() => this.#ask(path + cursor));
      for (const item of items) this.#trace(patient, reading(item, 0));
      this.told.changed(patient);
      cursor = next ? `&cursor=${encodeURIComponent(next)}` : null;
    }
  }

  // ---- requests

  async #fetch(path, options, controller) {
    const abort = () => controller.abort();
    this.ended.signal.addEventListener('abort', abort, { once: true });
    try {
      const { token, csrf } = this.by, proof = token ? { Authorization: `Bearer ${token}` } : options.method && { 'X-CSRF-Token': csrf };
      const headers = { ...proof, ...options.headers }, credentials = token ? 'omit' : 'same-origin';
      const response = await fetch(`/api/v1${path}`, { ...options, headers, cache: 'no-store', credentials, signal: controller.signal });
      const skew = Date.parse(response.headers.get('date')) + 500 - Date.now(); // the header is cut to the second
      if (Number.isFinite(skew)) this.skewMs = Math.abs(skew) > 2_000 ? skew : 0;
      if (!response.ok) throw await Refused.from(response);
      return response;
    } finally {
      this.ended.signal.removeEventListener('abort', abort);
    }
  }

  async #ask(path, options = {}) {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), REQUEST_MS_MAX);
    try {
      const response = await this.#fetch(path, options, controller);
      return await response.json().catch(error => { if (options.method !== 'POST') throw error; });
    } catch (error) {
      if (error.status === 401) this.#deny(error);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async #limited(work) {
    while (this.busy >= REQUESTS_MAX) await new Promise(resolve => this.waiting.push(resolve));
    this.busy++;
    try {
      return await work();
    } finally {
      this.busy--;
      this.waiting.shift()?.();
    }
  }

  #deny(refused) {
    if (this.ended.signal.aborted) return;
    this.stop();
    this.told.denied(refused.message);
  }

  // ---- the stream

  async #follow() {
    for (let attempt = 0; !this.ended.signal.aborted;) {
      let afterMs = 0;
      const startedAt = Date.now();
      try {
        await this.#listen();
      } catch (error) {
        if (error.status === 401 || error.status === 403) return this.#deny(error);
        if (error.status === 409) this.#restored('');
        else if (error.status >= 400 && error.status < 500 && error.status !== 429 && this.lastEventId) this.#forget();
        afterMs = Math.min(error.afterMs || 0, RETRY_AFTER_MS_MAX);
      }
      if (this.ended.signal.aborted) return;
      if (this.link.state === 'live') this.#setLink('reconnecting');
      if (this.list.at === 0) this.#reload(); // no stream, but the last known state is better than an empty screen
      if (Date.now() - startedAt > STEADY_MS_MIN) attempt = 0;
      const backoffMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(attempt++, 10)) * (0.75 + Math.random() / 4);
      await new Promise(resolve => { this.wake = resolve; setTimeout(resolve, Math.max(backoffMs, afterMs)); });
    }
  }

  async #listen() {
    const connection = this.connection = new AbortController();
    let quietSince = Date.now();
    const watchdog = setInterval(() => {
      const silenceMs = Date.now() - quietSince;
      if (silenceMs > SILENCE_MS_MAX || silenceMs < -1_000) connection.abort(); // a clock set back counts as silence
    }, 1_000);
    try {
      const headers = { Accept: 'text/event-stream', ...(this.lastEventId && { 'Last-Event-ID': this.lastEventId }) };
      const response = await this.#fetch('/stream?types=reading,alert', { headers }, connection);
      const reader = response.body.getReader();
      const parse = sseParser(message => this.#message(message));
      this.link.heardAt = quietSince = Date.now();
      this.#setLink('live');
      this.#reload();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.ended.signal.aborted) return;
        this.link.heardAt = quietSince = Date.now();
        parse(value);
      }
    } finally {
      clearInterval(watchdog);
      connection.abort();
    }
  }

  #setLink(state) { Object.assign(this.link, { state, since: Date.now() }); }

  #forget() {
    this.lastEventId = '';
    this.told.gap();
  }

  /** The log was restored: what is held may be of a history that has ended. Everybody is asked for anew. */
  #restored(lastEventId) {
    for (const patient of this.patients.values()) this.told.removed(patient);
    this.patients.clear();
    this.list = { at: 0, error: '' };
    this.lastEventId = lastEventId;
    this.told.gap();
  }

  #message({ type, data, id }) {
    if (data === '') {
      this.lastEventId = id;
      return;
    }
    this.link.eventAt = Date.now();
    try {
      const body = JSON.parse(data);
      if (type === 'reading') this.#heardReading(body);
      else if (type === 'alert') this.#heardAlert(body);
      else if (type === 'retraction') this.#heardRetraction(body);
      else if (type === 'log_restored') this.#restored(id);
    } catch (error) {
      console.error('an event of the stream could not be used', error);
      if (Date.now() - this.list.at > BACKOFF_MS_MAX) this.#reload(); // it names nobody for sure: look at everybody
    }
    if (id) this.lastEventId = id;
  }

  // ---- the patients

  #patient(id) {
    let patient = this.patients.get(id);
    if (!patient) {
      patient = { id, known: false, ward: null, vitals: {}, alerts: [], news2: null, trace: new Map(), learnt: new Map(), askedAt: 0, heardAt: 0, wantedAt: 0 };
      this.patients.set(id, patient);
    }
    return patient;
  }

  #hear(id) {
    const patient = this.#patient(id), now = Date.now();
    patient.heardAt = now;
    if (!patient.known && this.list.at && now - patient.wantedAt > UNKNOWN_RETRY_MS) {
      patient.wantedAt = now;
      this.refresh(id);
    }
    return patient;
  }

  #heardReading(body) {
    const patient = this.#hear(body.patientId), value = reading(body, Date.now());
    if (body.vital === 'heart_rate') this.#trace(patient, value);
    if (!(patient.vitals[body.vital]?.at > value.at)) patient.vitals[body.vital] = value;
    if (patient.known) this.told.changed(patient);
  }

  /** What no longer counts is not shown; what counts instead, the server knows. */
  #heardRetraction(body) {
    const patient = this.#hear(body.patientId);
    if (patient.vitals[body.vital]?.at === Date.parse(body.measuredAt)) delete patient.vitals[body.vital];
    if (patient.known) this.told.changed(patient);
    this.refresh(patient.id);
  }

  #trace(patient, { value, at, suspect }) {
    if (suspect) return;
    const bucket = Math.floor(at / BUCKET_MS), seen = patient.trace.get(bucket);
    patient.trace.set(bucket, seen ? { low: Math.min(seen.low, value), high: Math.max(seen.high, value) } : { low: value, high: value });
    if (patient.trace.size <= BUCKETS_MAX) return;
    const oldest = Math.floor((this.now() - TRACE_MS) / BUCKET_MS);
    for (const key of patient.trace.keys()) if (key < oldest) patient.trace.delete(key);
  }

  #heardAlert(body) {
    this.told.alert(body);
    if (body.state === 'missed') return;
    const patient = this.#hear(body.patientId);
    const active = patient.alerts.find(alert => alert.id === body.alertId);
    if (body.state === 'raised') {
      const { event, priority, value, unit, vital } = body;
      this.#learn(patient, active ?? { id: body.alertId, event, priority, value, unit, vital, since: body.measuredAt ?? body.recordedAt, acknowledged: null });
    } else if (body.state === 'cleared') {
      patient.learnt.set(body.alertId, { at: Date.now(), alert: null });
      patient.alerts = patient.alerts.filter(alert => alert !== active);
    } else if (body.state === 'acknowledged' && active) {
      this.#learn(patient, { ...active, acknowledged: active.acknowledged ?? { by: body.by ?? null, at: body.recordedAt } });
    }
    if (patient.known) this.told.changed(patient);
    this.refresh(patient.id);
  }

  /** Holds an alert as active from now on, whatever a fetch that lags behind the stream may say. */
  #learn(patient, alert) {
    patient.learnt.set(alert.id, { at: Date.now(), alert });
    patient.alerts = [...patient.alerts.filter(other => other.id !== alert.id), alert];
    if (patient.known) this.told.changed(patient);
  }

  async #refreshOne(id) {
    const askedAt = Date.now();
    try {
      const state = await this.#limited(() => this.#ask(`/patients/${encodeURIComponent(id)}`));
      if (this.#merge(state, askedAt)) setTimeout(() => this.ended.signal.aborted || this.refresh(id), BEHIND_RETRY_MS);
    } catch (error) {
      if (!this.ended.signal.aborted) console.warn(`patient ${id} could not be read`, error); // the list comes round again
    }
  }

  async #reload() {
    if (this.reloading || this.ended.signal.aborted) {
      this.reloadAgain = true;
      return;
    }
    this.reloading = true;
    clearTimeout(this.reloadTimer);
    this.#warn();
    const askedAt = Date.now(), seen = new Set();
    try {
      for (let page = 0, cursor = ''; page < PAGES_MAX && cursor !== null; page++) {
        const { items, next } = await this.#ask(`/patients?limit=200${cursor}`);
        for (const state of items) {
          seen.add(state.patientId);
          this.#merge(state, askedAt);
        }
        cursor = next ? `&cursor=${encodeURIComponent(next)}` : null;
      }
      this.list = { at: Date.now(), error: '' };
      for (const patient of this.patients.values()) {
        if (seen.has(patient.id) || patient.heardAt > askedAt - BEHIND_MS_MAX) continue;
        this.patients.delete(patient.id);
        this.told.removed(patient);
      }
      this.told.reloaded();
    } catch (error) {
      if (error.status === 403) this.#deny(error);
      this.list.error = error.status ? error.message : 'The list of patients could not be read.';
      if (!this.ended.signal.aborted) console.warn(this.list.error, error);
    } finally {
      this.reloading = false;
    }
    if (this.ended.signal.aborted) return;
    this.reloadTimer = setTimeout(() => this.#reload(), this.reloadAgain || this.list.error ? BACKOFF_MS_MAX : RELOAD_MS);
    this.reloadAgain = false;
  }

  /** What the server says that somebody should look at; as it was while it cannot be asked. */
  async #warn() {
    try {
      const response = await fetch('/health/ready', { cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(REQUEST_MS_MAX) });
      if (response.ok) {
        const { warnings = [], canWait = [] } = await response.json();
        // What can wait is for whoever runs it: on a ward it would only frighten.
        this.warnings = warnings.filter(text => !canWait.includes(text));
      }
    } catch (error) {
      if (!this.ended.signal.aborted) console.warn('The server could not be asked for its warnings.', error);
    }
  }

  /** Takes a fetched state, except for what the stream said since or shortly before. True if it lagged behind. */
  #merge(state, askedAt) {
    const patient = this.#patient(state.patientId), recent = askedAt - BEHIND_MS_MAX;
    if (askedAt < patient.askedAt) return false;
    let lagged = false;
    const vitals = {}, alerts = new Map((state.alerts ?? []).map(alert => [alert.id, alert]));
    for (const [vital, value] of Object.entries(state.vitals ?? {})) vitals[vital] = reading(value, 0);
    for (const [vital, own] of Object.entries(patient.vitals)) {
      if (own.heardAt > recent && !(vitals[vital]?.at >= own.at)) vitals[vital] = own;
    }
    for (const [id, { at, alert }] of patient.learnt) {
      const fetched = alerts.get(id);
      if (at <= recent) patient.learnt.delete(id);
      else if (!alert) lagged = alerts.delete(id) || lagged;
      else if (!fetched || (alert.acknowledged && !fetched.acknowledged)) {
        alerts.set(id, alert);
        lagged = true;
      }
    }
    Object.assign(patient, { known: true, askedAt, ward: state.ward ?? null, news2: state.news2 ?? null, vitals, alerts: [...alerts.values()] });
    this.told.changed(patient);
    return lagged;
  }
}
