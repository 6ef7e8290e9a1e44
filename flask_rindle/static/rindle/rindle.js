/**
 * flask-rindle in the browser: `<rindle-upload>` and `<rindle-picture>`.
 *
 * One module, no dependencies, nothing inline: it runs under `Content-Security-Policy: default-src 'self'`.
 * The way of a file is one road: RindleUpload -> Queue -> Transfer (Api, transmit) -> Watcher -> <picture>.
 *
 * @typedef {{code: string, detail: string}} Trouble
 * @typedef {{url: string, method: string, headers: Record<string, string>, expires_at: string}} Grant
 * @typedef {Grant & {part_bytes: number, part_count: number, chunk_bytes: number}} Road what the strategy has of these
 * @typedef {{number: number, byte_size: number}} Part
 * @typedef {{id: string, state: string, strategy: string, byte_size: number, received_bytes: number, parts?: Part[],
 *            upload: Road, events_url: string, state_url: string}} Session
 * @typedef {Record<string, string | number | null | undefined>} Attributes
 * @typedef {{sources?: Attributes[], img: Attributes}} Picture
 * @typedef {{asset_id: string, state: string, settled: boolean, variants: Record<string, string>,
 *            picture: Picture | null, error: Trouble | null}} AssetState
 */

/* ------------------------------------------------------------------ words */

/** Every text that the script shows. A page may change them: `import {messages} from …`. */
export const messages = {
  choose: "Choose a file",
  chooseMany: "Choose files",
  drop: "or drop it here",
  dropMany: "or drop them here",
  files: "Files",
  progressOf: "Progress of {name}",
  percent: "{percent} %",
  announcement: "{name}: {text}",
  action: "{action}: {name}",

  queued: "Waiting for its turn",
  starting: "Getting ready",
  sending: "Uploading",
  pickedUp: "Uploading the rest",
  sent: "Sent, waiting for the server",
  checking: "Checking the file",
  processing: "Processing",
  ready: "Done",
  degraded: "Saved, but not every version of it could be made",
  paused: "Paused",
  cancelled: "Cancelled",
  offline: "You are offline. The upload goes on when the connection is back.",
  retrying: "That did not work. Trying again in {seconds} s.",
  stalled: "Nothing has moved for a while. Pause and resume to send it again.",

  pause: "Pause",
  resume: "Resume",
  cancel: "Cancel",
  retry: "Try again",
  remove: "Remove",
  reload: "Reload to change",

  // The same sentences as in flask_rindle/errors.py.
  empty_upload: "The file is empty. Choose another one.",
  too_large: "The file is too large. Send one of at most {limit}.",
  type_refused: "Files of type {type} are not accepted here. Send {allowed}.",
  extension_refused: "Files named {extension} are not accepted here. Send {allowed}.",
  upload_unsupported: "This kind of upload is not available here.",
  rindle_error: "Something went wrong on the server. Try again in a moment.",
  // For answers that do not come from Rindle.
  network: "The connection broke off. Check it, then try again.",
  refused: "The server did not take the file.",
  refusedSize: "The file is too large for this server.",
  noExtension: "without an extension",
};

/** @param {string} text @param {Record<string, unknown>} [facts] */
export function fill(text, facts = {}) {
  return text.replace(/\{(\w+)\}/g, (hole, name) => String(facts[name] ?? hole));
}

/** A byte count for people, as errors.format_bytes writes it. @param {number} count */
export function formatBytes(count) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${Number(count.toFixed(1))} ${units[unit]}`;
}

/* ----------------------------------------------------------------- checks */

/** @param {string} name */
function extensionOf(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? name.slice(dot).toLowerCase() : "";
}

/** Splits an accept attribute into types and extensions. @param {string | null | undefined} accept */
function acceptList(accept) {
  const entries = (accept ?? "").split(",").map((entry) => entry.trim().toLowerCase()).filter(Boolean).sort();
  return {
    types: entries.filter((entry) => entry.includes("/")),
    extensions: entries.filter((entry) => entry.startsWith(".")),
  };
}

/** @param {string} type @param {string[]} types */
function typeIsIn(type, types) {
  const family = type.replace(/\/.*/, "/*");
  return types.some((entry) => entry === "*/*" || entry === type || entry === family);
}

/** A media type for people, as errors.type_name writes it. @param {string} type */
export function typeName(type) {
  const known = { "image/jpeg": "JPEG", "image/webp": "WebP", "image/svg+xml": "SVG", "video/webm": "WebM", "video/quicktime": "MOV" };
  return known[/** @type {keyof typeof known} */ (type)] ?? (/^(image|video|audio)\//.test(type) ? type.replace(/.*\/(x-)?/, "").toUpperCase() : type);
}

/**
 * What an accept attribute has against a file, or null. A type that the browser does not know is for the server to judge.
 * @param {{name: string, type: string}} file @param {string | null | undefined} accept
 * @returns {Trouble | null}
 */
export function checkType(file, accept) {
  const { types, extensions } = acceptList(accept);
  const extension = extensionOf(file.name);
  if (!types.length && !extensions.length) return null;
  if (extensions.includes(extension) || typeIsIn(file.type, types)) return null;
  if (types.length && !file.type) return null;
  const [code, allowed] = types.length ? ["type_refused", types] : ["extension_refused", extensions];
  const names = types.length ? allowed.map(typeName) : allowed;
  const facts = { type: file.type, extension: extension || messages.noExtension, allowed: names.join(", ") };
  return { code, detail: fill(/** @type {Record<string, string>} */ (messages)[code], facts) };
}

/**
 * What can be said against a file before a byte of it is sent, or null.
 * @param {{name: string, type: string, size: number}} file
 * @param {{accept?: string | null, maxBytes?: number | null}} limits
 * @returns {Trouble | null}
 */
export function checkFile(file, { accept, maxBytes } = {}) {
  if (file.size === 0) return { code: "empty_upload", detail: messages.empty_upload };
  if (maxBytes && file.size > maxBytes) {
    return { code: "too_large", detail: fill(messages.too_large, { limit: formatBytes(maxBytes) }) };
  }
  return checkType(file, accept);
}

/* ---------------------------------------------------------------- trouble */

/** An answer that is not a success, as problem+json says it or as well as it can be guessed. */
export class Problem extends Error {
  /** @param {{status?: number, code: string, detail: string, retryAfter?: number | null}} facts */
  constructor({ status = 0, code, detail, retryAfter = null }) {
    super(detail);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }

  /** Worth another try without anybody changing anything. */
  get transient() {
    return this.code === "network" || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

const broken = () => new Problem({ code: "network", detail: messages.network });

/** Retry-After in milliseconds, from seconds or an HTTP date. @param {string | null} value @param {number} [now] */
export function parseRetryAfter(value, now = Date.now()) {
  if (!value) return null;
  if (/^\s*\d+\s*$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}

/** @param {number} status @returns {Trouble} */
function guess(status) {
  if (status >= 500) return { code: "rindle_error", detail: messages.rindle_error };
  if (status === 413) return { code: "too_large", detail: messages.refusedSize };
  return { code: "rejected_upload", detail: messages.refused };
}

/**
 * @param {number} status @param {string | null} type @param {string} text @param {string | null} [retryAfter]
 */
export function parseProblem(status, type, text, retryAfter = null) {
  /** @type {Partial<Trouble>} */
  let said = {};
  // What S3 says to a line that was silent for too long.
  if (status === 400 && text.includes("<Code>RequestTimeout<")) status = 408;
  try {
    if (/\bjson\b/.test(type ?? "")) said = JSON.parse(text) ?? {};
  } catch {
    // Not what it claims to be; the status has to do.
  }
  const { code, detail } = guess(status);
  return new Problem({
    status,
    code: said.code ?? code,
    detail: said.detail ?? detail,
    retryAfter: parseRetryAfter(retryAfter),
  });
}

/* --------------------------------------------------------------- patience */

const RETRIES = 3;
const LONGEST_WAIT = 120_000;

/**
 * Milliseconds before the next try: 1 s, 2 s, 4 s … with a quarter of jitter, and never before the server wants it.
 * @param {number} failures @param {number | null} [retryAfter] @param {() => number} [random]
 */
export function backoff(failures, retryAfter = null, random = Math.random) {
  const own = Math.min(1000 * 2 ** (failures - 1), 10_000) * (0.75 + random() / 2);
  return Math.round(Math.max(own, retryAfter ?? 0));
}

/** @param {AbortSignal} signal @param {(done: () => void) => () => void} begin begins waiting, returns how to stop */
function waiting(signal, begin) {
  return new Promise((resolve, reject) => {
    const stop = begin(() => {
      signal.removeEventListener("abort", abort);
      resolve(undefined);
    });
    const abort = () => {
      stop();
      reject(signal.reason);
    };
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** @param {number} ms @param {AbortSignal} signal */
function sleep(ms, signal) {
  return waiting(signal, (done) => {
    const timer = setTimeout(done, ms);
    return () => clearTimeout(timer);
  });
}

/** @param {AbortSignal} signal */
function online(signal) {
  return waiting(signal, (done) => {
    addEventListener("online", done, { once: true });
    return () => removeEventListener("online", done);
  });
}

/**
 * Does a step until it succeeds, is refused for good, or has failed too often. Being offline costs no try.
 * @template T
 * @param {() => Promise<T>} step
 * @param {{signal: AbortSignal, onWait?: (why: "offline" | "retrying", ms: number) => void, random?: () => number}} options
 * @returns {Promise<T>}
 */
export async function persist(step, { signal, onWait = () => {}, random = Math.random }) {
  for (let failures = 0; ; ) {
    try {
      return await step();
    } catch (error) {
      if (signal.aborted || !(error instanceof Problem) || !error.transient) throw error;
      if (globalThis.navigator?.onLine === false) {
        onWait("offline", 0);
        await online(signal);
        continue;
      }
      failures += 1;
      const ms = backoff(failures, error.retryAfter, random);
      if (failures > RETRIES || ms > LONGEST_WAIT) throw error;
      onWait("retrying", ms);
      await sleep(ms, signal);
    }
  }
}

/* -------------------------------------------------------------- transport */

/** @param {string} url @param {RequestInit} [init] @returns {Promise<any>} */
async function fetchJson(url, init = {}) {
  let response, text;
  try {
    response = await fetch(url, { ...init, headers: { Accept: "application/json", ...init.headers } });
    text = await response.text();
  } catch {
    throw broken();
  }
  if (!response.ok) {
    throw parseProblem(response.status, response.headers.get("Content-Type"), text, response.headers.get("Retry-After"));
  }
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw broken(); // a captive portal, or a proxy's own page
  }
}

/** The upload routes, with the ticket. */
class Api {
  /** @param {string} url @param {string} ticket */
  constructor(url, ticket) {
    this.url = url;
    this.ticket = ticket;
  }

  /** @param {string} method @param {string} path @param {object} [json] @param {RequestInit} [init] */
  call(method, path, json, init = {}) {
    const headers = { "Rindle-Ticket": this.ticket, ...(json && { "Content-Type": "application/json" }) };
    return fetchJson(this.url + path, { method, headers, body: json && JSON.stringify(json), ...init });
  }

  /** @param {File} file @returns {Promise<Session>} */
  open(file) {
    return this.call("POST", "", { filename: file.name, content_type: file.type || undefined, byte_size: file.size });
  }

  /** @param {string} id @returns {Promise<Session>} */
  look(id) {
    return this.call("GET", `/${id}`);
  }

  /** @param {string} id @returns {Promise<{upload: Grant}>} */
  sign(id) {
    return this.call("POST", `/${id}/sign`);
  }

  /** @param {string} id @param {number[]} numbers @returns {Promise<{parts: SignedPart[]}>} */
  signParts(id, numbers) {
    return this.call("POST", `/${id}/parts`, { numbers });
  }

  /** @param {string} id @returns {Promise<Session>} */
  complete(id) {
    return this.call("POST", `/${id}/complete`);
  }

  /** @param {string} id */
  cancel(id) {
    return this.call("DELETE", `/${id}`, undefined, { keepalive: true });
  }
}

/** @typedef {Grant & {number: number}} SignedPart */

const STALLED_AFTER = 30_000;
const MORE = 308; // a resumable upload that is not at its end
const SET_BY_THE_BROWSER = new Set(["content-length", "host"]);

/** Reports when nothing has moved for a while. It never stops a transfer: a slow line may be silent for long. */
class StallWatch {
  /** @param {() => void} onStall */
  constructor(onStall) {
    this.onStall = onStall;
  }

  moved() {
    this.stop();
    this.timer = setTimeout(this.onStall, STALLED_AFTER);
  }

  stop() {
    clearTimeout(this.timer);
  }
}

/**
 * Sends a body with XMLHttpRequest, because fetch knows no upload progress.
 * @param {{method: string, url: string, headers: Record<string, string>, body: XMLHttpRequestBodyInit, signal: AbortSignal,
 *          onProgress: (loaded: number) => void, onStall: () => void}} options `loaded` is Infinity when all has left
 * @returns {Promise<XMLHttpRequest>}
 */
function transmit({ method, url, headers, body, signal, onProgress, onStall }) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const stall = new StallWatch(onStall);
    const abort = () => xhr.abort();
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) {
      if (!SET_BY_THE_BROWSER.has(name.toLowerCase())) xhr.setRequestHeader(name, value);
    }
    xhr.upload.onprogress = (event) => {
      stall.moved();
      onProgress(event.loaded);
    };
    xhr.upload.onload = () => {
      stall.stop();
      onProgress(Infinity);
    };
    xhr.onload = () => (xhr.status < 300 || xhr.status === MORE ? resolve(xhr) : reject(problemOf(xhr)));
    xhr.onerror = () => reject(broken());
    xhr.onabort = () => reject(signal.reason);
    xhr.onloadend = () => {
      stall.stop();
      signal.removeEventListener("abort", abort);
    };
    signal.addEventListener("abort", abort);
    stall.moved();
    xhr.send(body);
  });
}

/** @param {XMLHttpRequest} xhr */
function problemOf(xhr) {
  const header = (/** @type {string} */ name) => xhr.getResponseHeader(name);
  // A storage on another origin shows Retry-After only if its CORS rules expose it.
  return parseProblem(xhr.status, header("Content-Type"), xhr.responseText, header("Retry-After"));
}

/* ---------------------------------------------------------- large files */

const LARGE = new Set(["multipart", "resumable"]);
const PARTS_AT_ONCE = 3;
const SIGNED_AHEAD = 10;
const PIECE_BYTES = 16 * 1024 * 1024;

/** Where a part begins and ends; they are numbered from 1. @param {number} number @param {number} partBytes @param {number} size */
export function partRange(number, partBytes, size) {
  return [(number - 1) * partBytes, Math.min(number * partBytes, size)];
}

/**
 * The numbers of the parts that the storage does not have whole.
 * @param {{part_bytes: number, part_count: number}} layout @param {number} size @param {Part[]} [parts] what it has
 */
export function missingParts({ part_bytes, part_count }, size, parts = []) {
  const there = new Map(parts.map((part) => [part.number, part.byte_size]));
  const all = Array.from({ length: part_count }, (_, index) => index + 1);
  return all.filter((number) => {
    const [start, end] = partRange(number, part_bytes, size);
    return there.get(number) !== end - start;
  });
}

/** Where a piece of a resumable upload ends. @param {number} start @param {number} size @param {number} chunkBytes */
export function pieceEnd(start, size, chunkBytes) {
  return Math.min(start + chunkBytes * Math.max(1, Math.floor(PIECE_BYTES / chunkBytes)), size);
}

/** How many bytes a Range header says to be there; null when it says nothing. @param {string | null} value */
export function parseRange(value) {
  const match = /^bytes=0-(\d+)$/.exec(value ?? "");
  return match && Number(match[1]) + 1;
}

/** Counts what has been sent while several parts are on their way. */
export class Tally {
  /** @type {Map<number, number>} */
  running = new Map();

  /** @param {number} done */
  constructor(done) {
    this.done = done;
  }

  get loaded() {
    return [...this.running.values()].reduce((sum, loaded) => sum + loaded, this.done);
  }

  /** @param {number} number @param {number} bytes */
  finish(number, bytes) {
    this.running.delete(number);
    this.done += bytes;
  }
}

/** The URLs of parts: asked for a batch ahead, and each handed out once, because the next try may need a fresh one. */
export class Signatures {
  /** @type {Map<number, Promise<{parts: SignedPart[]}>>} */
  #ready = new Map();

  /** @param {number[]} numbers @param {(numbers: number[]) => Promise<{parts: SignedPart[]}>} sign */
  constructor(numbers, sign) {
    this.rest = numbers;
    this.sign = sign;
  }

  /** @param {number} number @returns {Promise<SignedPart>} */
  async take(number) {
    const batch = this.#ready.get(number) ?? this.#ask(number);
    this.#ready.delete(number);
    try {
      return /** @type {SignedPart} */ ((await batch).parts.find((part) => part.number === number));
    } catch (error) {
      this.drop();
      throw error;
    }
  }

  /** Forgets what is at hand: it is as old as the one that was refused. */
  drop() {
    this.rest = [...this.#ready.keys(), ...this.rest];
    this.#ready.clear();
  }

  /** @param {number} number */
  #ask(number) {
    const numbers = [number, ...this.rest.filter((other) => other !== number)].slice(0, SIGNED_AHEAD);
    const batch = this.sign(numbers);
    this.rest = this.rest.filter((other) => !numbers.includes(other));
    for (const other of numbers) this.#ready.set(other, batch);
    return batch;
  }
}

/**
 * Does a task for each item, a few at once. The first failure stops the others.
 * @template T
 * @param {T[]} items @param {number} limit @param {(item: T, signal: AbortSignal) => Promise<unknown>} task
 * @param {AbortSignal} signal
 */
export async function inParallel(items, limit, task, signal) {
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort(signal.reason), { signal: stop.signal });
  const rest = items.values();
  const lane = async () => {
    for (const item of rest) await task(item, stop.signal);
  };
  try {
    await Promise.all(Array.from({ length: limit }, lane));
  } finally {
    stop.abort();
  }
}

/**
 * A storage answers 403 to a URL that has expired: then once more, with a fresh one.
 * @template G, T
 * @param {() => Promise<G>} take @param {(grant: G) => Promise<T>} put @param {() => void} [drop]
 */
export async function withGrant(take, put, drop = () => {}) {
  const first = await take();
  try {
    return await put(first);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 403) throw error;
    drop();
    return put(await take());
  }
}

const MARK = "rindle-upload:";
const REMEMBERED_FOR = 7 * 86_400_000;

/** 64 bits of a text, so that no file's name stands in a shared browser. @param {string} text */
function digest(text) {
  let [high, low] = [0x811c9dc5, 0x41c6ce57];
  for (let index = 0; index < text.length; index += 1) {
    high = Math.imul(high ^ text.charCodeAt(index), 0x01000193);
    low = Math.imul(low ^ text.charCodeAt(index), 0x5bd1e995);
  }
  return (high >>> 0).toString(36) + (low >>> 0).toString(36);
}

/** Which session a file was being sent in, for when the page was left or the tab crashed. A browser that forgets is no error. */
export class Memory {
  /** Sessions of this page: the same file chosen twice is two uploads. @type {Set<string>} */
  static inHand = new Set();

  /** @param {string} url */
  constructor(url) {
    this.url = url;
    this.#try((store) => {
      for (const key of Object.keys(store)) if (key.startsWith(MARK) && !this.#read(store, key)) store.removeItem(key);
    });
  }

  /** @param {File} file @returns {string | undefined} */
  take(file) {
    const id = this.#try((store) => this.#read(store, this.key(file)));
    if (!id || Memory.inHand.has(id)) return undefined;
    Memory.inHand.add(id);
    return id;
  }

  /** @param {File} file @param {string} id */
  keep(file, id) {
    Memory.inHand.add(id);
    this.#try((store) => store.setItem(this.key(file), JSON.stringify({ id, at: Date.now() })));
  }

  /** @param {File} file @param {string} id another one stays */
  forget(file, id) {
    const key = this.key(file);
    this.#try((store) => this.#read(store, key) === id && store.removeItem(key));
  }

  /** @param {File} file */
  key({ name, size, lastModified, type }) {
    return MARK + digest([this.url, name, size, lastModified, type].join("\n"));
  }

  /** @param {Storage} store @param {string} key @returns {string | undefined} nothing that is too old */
  #read(store, key) {
    try {
      const { id, at } = JSON.parse(store.getItem(key) ?? "{}");
      return Date.now() - at < REMEMBERED_FOR ? id : undefined;
    } catch {
      return undefined; // somebody else wrote it
    }
  }

  /** @param {(store: Storage) => any} use */
  #try(use) {
    try {
      return use(localStorage);
    } catch {
      return undefined; // private, full or forbidden
    }
  }
}

/* -------------------------------------------------------------- readiness */

const DEBOUNCE = 150;
const SAFETY_NET = 30_000;
const STREAM_FAILURES = 3;

/**
 * Follows one asset until it is settled: by its event stream where there is one, by polling where there is not, and
 * always with a slow poll underneath, because a proxy can hold back a stream that looks alive.
 */
export class Watcher {
  /**
   * @param {{stateUrl: string, eventsUrl?: string | null,
   *          onState: (state: AssetState) => void, onFailure: (problem: Problem) => void}} options
   */
  constructor({ stateUrl, eventsUrl, onState, onFailure }) {
    this.stateUrl = stateUrl;
    this.eventsUrl = eventsUrl;
    this.onState = onState;
    this.onFailure = onFailure;
    this.running = this.live = this.checking = this.again = false;
    this.due = Infinity;
    this.polls = this.failures = 0;
  }

  start() {
    if (this.running) return this;
    this.running = true;
    this.polls = 0;
    this.listen();
    this.openStream();
    this.later(this.stream ? 1000 : 0);
    return this;
  }

  /** Stops for good. */
  stop() {
    this.rest();
    this.pages?.abort();
    this.pages = undefined;
  }

  /** Stops until the page is shown again. */
  rest() {
    this.running = false;
    clearTimeout(this.timer);
    this.due = Infinity;
    this.closeStream();
  }

  /** A page in the back-forward cache must not hold a connection. */
  listen() {
    if (this.pages) return;
    this.pages = new AbortController();
    const { signal } = this.pages;
    globalThis.addEventListener?.("pagehide", () => this.rest(), { signal });
    globalThis.addEventListener?.("pageshow", () => this.start(), { signal });
  }

  openStream() {
    if (!this.eventsUrl || !globalThis.EventSource) return;
    this.live = false;
    this.failures = 0;
    this.stream = new EventSource(this.eventsUrl);
    this.stream.addEventListener("open", () => this.opened());
    this.stream.addEventListener("change", () => this.later(DEBOUNCE));
    this.stream.addEventListener("error", () => this.failed());
  }

  closeStream() {
    this.stream?.close();
    this.stream = undefined;
    this.live = false;
  }

  /** The first connection may have missed something; a later one is told by Last-Event-ID. */
  opened() {
    this.failures = 0;
    if (!this.live) this.later(0);
    this.live = true;
  }

  /** Streams end by themselves and the browser reconnects; only one that does not open again is broken. */
  failed() {
    this.failures += 1;
    if (this.stream?.readyState === EventSource.CLOSED || this.failures >= STREAM_FAILURES) {
      this.closeStream();
      this.polls = 0;
      this.later(0);
    }
  }

  /** Checks in so many milliseconds, or earlier if that is planned already. @param {number} ms */
  later(ms) {
    const due = Date.now() + ms;
    if (this.due <= due) return;
    clearTimeout(this.timer);
    this.due = due;
    this.timer = setTimeout(() => this.check(), ms);
  }

  async check() {
    this.due = Infinity;
    if (this.checking) {
      this.again = true;
      return;
    }
    this.checking = true;
    try {
      this.tell(await fetchJson(this.stateUrl, { cache: "no-store" }));
    } catch (problem) {
      this.excuse(problem);
    }
    this.checking = false;
    if (this.running) this.later(this.again ? DEBOUNCE : this.pace());
    this.again = false;
  }

  /** @param {AssetState} state */
  tell(state) {
    if (!this.running) return;
    if (state.settled) this.stop();
    this.onState(state);
  }

  /** @param {unknown} problem */
  excuse(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.transient || !this.running) return;
    this.stop();
    this.onFailure(problem);
  }

  pace() {
    if (this.live) return SAFETY_NET;
    this.polls += 1;
    return Math.min(1000 * 2 ** (this.polls - 1), 10_000);
  }
}

/* --------------------------------------------------------------- pictures */

/** @param {Attributes} attributes @returns {[string, string][]} */
function present(attributes) {
  return Object.entries(attributes)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => [name, String(value)]);
}

/**
 * The attributes of a picture's elements, in the order in which they are to be set: `src` last, so that the browser
 * knows srcset and sizes before it chooses.
 * @param {Picture} picture @param {{alt?: string | null, class?: string | null}} [own] what the page says itself
 */
export function picturePlan(picture, own = {}) {
  const { src, alt, width, height, srcset, sizes } = picture.img;
  return {
    sources: (picture.sources ?? []).map(({ type, media, sizes, srcset }) => present({ type, media, sizes, srcset })),
    img: present({
      class: own.class || null,
      alt: own.alt || (alt ?? ""),
      width,
      height,
      decoding: "async",
      sizes,
      srcset,
      src,
    }),
  };
}

/** @param {Picture} picture @param {{alt?: string | null, class?: string | null}} [own] */
function buildPicture(picture, own) {
  const plan = picturePlan(picture, own);
  const node = element("picture");
  for (const source of plan.sources) node.append(element("source", Object.fromEntries(source)));
  node.append(element("img", Object.fromEntries(plan.img)));
  return node;
}

/** Waits until a picture can be painted, so that what it replaces does not flicker. @param {HTMLElement} node */
async function decoded(node) {
  try {
    await node.querySelector("img")?.decode();
  } catch {
    // Shown all the same: a broken picture says more than none.
  }
}

/**
 * Draws a centred square of a picture file; false when the browser cannot open it.
 * @param {HTMLCanvasElement} canvas @param {File} file
 */
async function drawPreview(canvas, file) {
  if (!file.type.startsWith("image/") || !globalThis.createImageBitmap) return false;
  try {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    const side = Math.min(bitmap.width, bitmap.height);
    const [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
    canvas.width = canvas.height = 160;
    canvas.getContext("2d")?.drawImage(bitmap, x, y, side, side, 0, 0, 160, 160);
    bitmap.close();
    return true;
  } catch {
    return false;
  }
}

/* --------------------------------------------------------------- transfer */

/**
 * @typedef {{changed: (transfer: Transfer) => void, enqueue: (transfer: Transfer) => void,
 *            place: (transfer: Transfer, picture: Picture) => void,
 *            emit: (name: string, detail: object) => void}} Host
 */

const UNDER_WAY = new Set(["queued", "starting", "sending", "sent", "waiting"]);
const AT_THE_SERVER = new Set(["uploaded", "verifying", "completed"]);
const NEEDS_RELOAD = new Set(["ticket_used", "ticket_expired", "ticket_invalid"]);
const LOST = new Set([404, 410]);
const ALREADY_THERE = 412;
const OVER = new Set(["aborted", "expired", "failed"]);
/** Refusals that sending the same file anew can mend. */
const SEND_ANEW = new Set(["size_mismatch", "checksum_mismatch", "content_changed", "session_closed", "upload_incomplete"]);

/** @param {unknown} error @returns {undefined} an upload that nobody knows any more; other errors are thrown */
function unlessLost(error) {
  if (error instanceof Problem && (LOST.has(error.status) || error.status === 409)) return undefined;
  throw error;
}

/** One file on its way. `state` is the step, `message` the text for it. */
export class Transfer {
  /** @type {AbortController | undefined} */
  abort;
  /** @type {Watcher | undefined} */
  watcher;
  /** What the picture in place was built from. @type {string | undefined} */
  shown;
  /** Bytes may have left already in this session. */
  begun = false;
  pickedUp = false;
  /** The session of a former page. @type {string | undefined} */
  remembered;
  /** Has begun anew by itself, which helps once. */
  renewed = false;
  /** @type {Tally | undefined} */
  tally;
  movedAt = 0;

  /** @param {File} file @param {Api} api @param {Memory} memory @param {Host} host */
  constructor(file, api, memory, host) {
    this.file = file;
    this.api = api;
    this.memory = memory;
    this.host = host;
    this.state = "queued";
    this.message = messages.queued;
    this.loaded = 0;
    this.arrived = false;
    /** @type {Session | undefined} */
    this.session = undefined;
    /** @type {Promise<Session> | undefined} */
    this.opening = undefined;
    /** @type {Problem | Trouble | undefined} */
    this.problem = undefined;
    /** What has to be over before this one may begin. @type {Promise<unknown>} */
    this.after = Promise.resolve();
  }

  get underWay() {
    return UNDER_WAY.has(this.state);
  }

  /** The server has it and goes on by itself. */
  get accepted() {
    return ["checking", "processing", "ready"].includes(this.state);
  }

  /** Trouble after which the same session may go on, here or on another visit. */
  get isPassing() {
    return (this.problem instanceof Problem && this.problem.transient) || NEEDS_RELOAD.has(this.problem?.code ?? "");
  }

  get canRetry() {
    const problem = this.problem;
    return problem instanceof Problem && !this.watcher && (problem.transient || SEND_ANEW.has(problem.code));
  }

  /** @param {string} state @param {keyof typeof messages} [text] @param {Record<string, unknown>} [facts] */
  set(state, text, facts) {
    this.state = state;
    this.message = fill(messages[text ?? /** @type {keyof typeof messages} */ (state)], facts);
    this.host.changed(this);
  }

  async run() {
    if (this.state !== "queued") return;
    const { signal } = (this.abort = new AbortController());
    this.renewed = false;
    try {
      await this.arrive(signal);
      this.watch();
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    }
  }

  /** From here to the server, with what can be mended on the way. @param {AbortSignal} signal */
  async arrive(signal) {
    for (let chances = RETRIES; ; chances -= 1) {
      try {
        await this.after;
        await this.persist(() => this.open(), signal);
        if (!this.arrived) await this.deliver(signal);
        this.arrived = true;
        return await this.persist(() => this.complete(), signal);
      } catch (error) {
        if (signal.aborted || !chances || !this.mend(error)) throw error;
      }
    }
  }

  /** Whether the rest of a large file, or all of it in a new session, can still be sent. @param {unknown} error */
  mend(error) {
    if (!(error instanceof Problem) || !this.isLarge) return false;
    if (error.code === "upload_incomplete") {
      this.arrived = false;
      return true;
    }
    if (this.renewed || !(LOST.has(error.status) || error.code === "session_closed")) return false;
    this.renewed = true;
    this.forget();
    return true;
  }

  get isLarge() {
    return LARGE.has(this.session?.strategy ?? "");
  }

  /** Says that it waits only when nothing else of the file is moving. @template T @param {() => Promise<T>} step @param {AbortSignal} signal */
  async persist(step, signal) {
    const onWait = (/** @type {"offline" | "retrying"} */ why, /** @type {number} */ ms) => {
      if (why === "offline" || !this.tally?.running.size) this.set("waiting", why, { seconds: Math.ceil(ms / 1000) });
    };
    signal.throwIfAborted();
    const result = await persist(step, { signal, onWait });
    signal.throwIfAborted();
    return result;
  }

  /** Is never cut short: a session whose id nobody heard could not be cancelled. */
  async open() {
    if (this.session) return;
    this.set("starting");
    this.opening ??= this.pickUp();
    try {
      this.session = await this.opening;
    } catch (error) {
      this.opening = undefined;
      throw error;
    }
    if (this.isLarge) this.memory.keep(this.file, this.session.id);
  }

  /** The session that a former page began for this file, or a new one. @returns {Promise<Session>} */
  async pickUp() {
    const id = (this.remembered ??= this.memory.take(this.file));
    const known = id ? await this.api.look(id).catch(unlessLost) : undefined;
    if (known && !OVER.has(known.state) && known.byte_size === this.file.size) {
      this.begun = this.pickedUp = true;
      return known;
    }
    if (id) this.memory.forget(this.file, id);
    return this.api.open(this.file);
  }

  /** @param {AbortSignal} signal @returns {Promise<unknown>} */
  deliver(signal) {
    const { strategy } = this.known();
    if (strategy === "multipart") return this.deliverParts(signal);
    if (strategy === "resumable") return this.deliverPieces(signal);
    if (strategy === "presigned_put") return this.persist(() => this.deliverPut(signal), signal);
    if (strategy === "form") return this.persist(() => this.deliverForm(signal), signal);
    throw new Problem({ status: 422, code: "upload_unsupported", detail: messages.upload_unsupported });
  }

  /** A URL that was used is not used again: one that has expired may look like a line that breaks. @param {AbortSignal} signal */
  async deliverPut(signal) {
    const session = this.known();
    const take = async () => {
      if (this.begun) Object.assign(session, await this.api.sign(session.id));
      this.begun = true;
      return session.upload;
    };
    try {
      await withGrant(take, (grant) => this.send(grant, this.file, signal));
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== ALREADY_THERE) throw error;
    }
  }

  /** A form post is not repeatable, so after a break the server is asked what it has. @param {AbortSignal} signal */
  async deliverForm(signal) {
    if (this.begun && (await this.isAtTheServer())) return;
    this.begun = true;
    const body = new FormData();
    body.append("ticket", this.api.ticket);
    body.append("session", this.known().id);
    body.append("file", this.file);
    const { upload } = this.known();
    const xhr = await this.send({ ...upload, headers: { Accept: "application/json" } }, body, signal);
    Object.assign(this.known(), JSON.parse(xhr.responseText));
  }

  /** Sends what the storage does not have, several parts at once, each with its own patience. @param {AbortSignal} signal */
  async deliverParts(signal) {
    if (this.begun && (await this.persist(() => this.isAtTheServer(), signal))) return;
    this.begun = true;
    const { id, upload, parts } = this.known();
    const { size } = this.file;
    const missing = missingParts(upload, size, parts);
    const signatures = new Signatures(missing, (numbers) => this.api.signParts(id, numbers));
    const bytes = (/** @type {number} */ number) => partRange(number, upload.part_bytes, size);
    const tally = (this.tally = new Tally(missing.map(bytes).reduce((rest, [start, end]) => rest - (end - start), size)));
    this.progress(tally.loaded);
    await inParallel(
      missing,
      PARTS_AT_ONCE,
      (number, stop) => this.persist(() => this.deliverPart(number, bytes(number), signatures, stop), stop),
      signal,
    );
  }

  /**
   * @param {number} number @param {number[]} range @param {Signatures} signatures @param {AbortSignal} signal
   */
  async deliverPart(number, [start, end], signatures, signal) {
    const tally = /** @type {Tally} */ (this.tally);
    const count = (/** @type {number} */ loaded) => {
      tally.running.set(number, loaded);
      this.progress(tally.loaded);
    };
    const put = (/** @type {SignedPart} */ grant) => this.send(grant, this.file.slice(start, end), signal, count);
    try {
      await withGrant(() => signatures.take(number), put, () => signatures.drop());
      tally.finish(number, end - start);
    } finally {
      tally.running.delete(number);
    }
  }

  /** Sends one piece after the other; after every break the storage says where to go on. @param {AbortSignal} signal */
  async deliverPieces(signal) {
    let from = 0;
    let sure = !this.begun;
    const step = async () => {
      if (!sure) from = await this.received();
      sure = false;
      this.begun = true;
      if (from < this.file.size) from = await this.deliverPiece(from, signal);
      sure = true;
    };
    do await this.persist(step, signal);
    while (from < this.file.size);
  }

  /** @param {number} from @param {AbortSignal} signal @returns {Promise<number>} how much is there afterwards */
  async deliverPiece(from, signal) {
    const { size } = this.file;
    const { url, chunk_bytes } = this.known().upload;
    const to = pieceEnd(from, size, chunk_bytes);
    const grant = { url, method: "PUT", headers: { "Content-Range": `bytes ${from}-${to - 1}/${size}` } };
    const xhr = await this.send(grant, this.file.slice(from, to), signal, (loaded) => this.progress(from + loaded));
    if (xhr.status !== MORE) return size;
    // Without the header nothing is there, or CORS hides it.
    const there = parseRange(xhr.getResponseHeader("Range")) ?? (await this.received());
    if (there <= from) throw broken();
    return there;
  }

  async received() {
    return (await this.isAtTheServer()) ? this.file.size : this.known().received_bytes;
  }

  async isAtTheServer() {
    const { upload } = this.known();
    const session = Object.assign(this.known(), await this.api.look(this.known().id));
    session.upload ??= upload;
    if (OVER.has(session.state)) throw new Problem({ status: 409, code: "session_closed", detail: messages.network });
    return AT_THE_SERVER.has(session.state);
  }

  /**
   * @param {Pick<Grant, "method" | "url" | "headers">} grant @param {Blob | FormData} body @param {AbortSignal} signal
   * @param {(loaded: number) => void} [count]
   */
  send({ method, url, headers }, body, signal, count = (loaded) => this.progress(loaded)) {
    const most = body instanceof Blob ? body.size : Infinity;
    const onProgress = (/** @type {number} */ loaded) => count(Math.min(loaded, most));
    onProgress(0);
    return transmit({ method, url, headers, body, signal, onProgress, onStall: () => this.stalled() });
  }

  /** Parts that stand still while others move are no news. */
  stalled() {
    if (performance.now() - this.movedAt > STALLED_AFTER / 2) this.set("sending", "stalled");
  }

  /** All bytes handed over is not all bytes arrived. @param {number} loaded */
  progress(loaded) {
    const total = this.file.size;
    this.movedAt = performance.now();
    this.loaded = Math.min(loaded, total);
    if (this.loaded < total) this.set("sending", this.pickedUp ? "pickedUp" : "sending");
    else this.set("sent");
    this.host.emit("progress", { loaded: this.loaded, total, file: this.file });
  }

  async complete() {
    const session = this.known();
    if (session.strategy === "form") return;
    this.set("checking");
    Object.assign(session, await this.api.complete(session.id));
  }

  watch() {
    const session = this.known();
    this.unremember();
    this.host.emit("uploaded", { session, file: this.file });
    this.set("processing");
    this.watcher = new Watcher({
      stateUrl: session.state_url,
      eventsUrl: session.events_url,
      onState: (state) => this.follow(state),
      onFailure: (problem) => this.fail(problem),
    }).start();
  }

  /** @param {AssetState} state */
  follow(state) {
    // Until then the preview stands: the whole original would only be fetched to be replaced.
    if (state.picture && state.settled) this.host.place(this, state.picture);
    if (!state.settled) {
      this.host.emit("processing", { state: state.state, file: this.file });
    } else if (state.error || !["ready", "degraded"].includes(state.state)) {
      this.fail(state.error ?? guess(422));
    } else {
      this.set("ready", state.state === "degraded" ? "degraded" : "ready");
      this.host.emit("ready", { asset: { id: state.asset_id, ...state }, file: this.file });
    }
  }

  /** @param {unknown} error */
  fail(error) {
    if (!(error instanceof Problem) && error instanceof Error) console.error(error);
    this.problem = error instanceof Error && !(error instanceof Problem) ? guess(500) : /** @type {Problem} */ (error);
    if (!this.isPassing) this.unremember();
    this.state = "error";
    this.message = this.problem.detail;
    this.host.changed(this);
    this.host.emit("error", { code: this.problem.code, detail: this.problem.detail, file: this.file });
  }

  known() {
    if (!this.session) throw new Error("The upload has no session yet.");
    return this.session;
  }

  pause() {
    if (!this.underWay) return;
    this.set("paused");
    this.abort?.abort();
  }

  resume() {
    if (this.state === "paused") this.enqueue();
  }

  retry() {
    if (this.state !== "error" || !this.canRetry) return;
    if (!(/** @type {Problem} */ (this.problem).transient)) this.forget();
    this.enqueue();
  }

  /** For a file that is chosen again. @returns {boolean} */
  goOn() {
    if (this.state !== "paused" && !this.canRetry) return false;
    this.resume();
    this.retry();
    return true;
  }

  enqueue() {
    this.problem = undefined;
    this.set("queued");
    this.host.enqueue(this);
  }

  /** Ends the session, so that the next attempt opens another one. */
  forget() {
    this.unremember();
    this.after = this.release();
    this.session = this.opening = this.remembered = undefined;
    this.arrived = this.begun = this.pickedUp = false;
  }

  unremember() {
    if (this.session) this.memory.forget(this.file, this.session.id);
  }

  /** Removes what the server has of an unfinished upload. */
  async release() {
    const session = this.session ?? (await this.opening?.catch(() => undefined));
    if (session) await this.api.cancel(session.id).catch(() => undefined); // it expires by itself
  }

  /** Stops, and takes back what has been sent. What the server has accepted stays. */
  async cancel() {
    this.watcher?.stop();
    if (this.watcher || this.accepted) return;
    this.state = "cancelled";
    this.abort?.abort();
    this.unremember();
    await this.release();
  }
}

/** Runs tasks, a few at a time. */
export class Queue {
  /** @type {(() => Promise<unknown>)[]} */
  #tasks = [];
  #running = 0;

  /** @param {number} limit */
  constructor(limit) {
    this.limit = limit;
  }

  /** @param {() => Promise<unknown>} task */
  add(task) {
    this.#tasks.push(task);
    this.#next();
  }

  #next() {
    while (this.#running < this.limit) {
      const task = this.#tasks.shift();
      if (!task) return;
      this.#running += 1;
      task().finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }
}

/* ------------------------------------------------------------------- view */

/** @param {string} tag @param {Attributes} [attributes] @param {(Node | string)[]} children @returns {any} */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of present(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** @param {Element} node @param {string} name @param {string} value nothing removes the attribute */
function assign(node, name, value) {
  if (value) node.setAttribute(name, value);
  else node.removeAttribute(name);
}

const ICONS = {
  upload: "M12 16V4m0 0L7 9m5-5 5 5M4 16v2a2 2 0 0 0 2 2h12a2 2 0 0 0 2-2v-2",
  file: "M14 3H7a2 2 0 0 0-2 2v14a2 2 0 0 0 2 2h10a2 2 0 0 0 2-2V8zm0 0v5h5",
  ready: "M20 6 9 17l-5-5",
  error: "M12 8v5m0 3.5v.01M12 3 2.5 20h19z",
};

/** @param {keyof typeof ICONS} name */
function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  for (const [key, value] of [["class", `rindle-icon rindle-icon-${name}`], ["viewBox", "0 0 24 24"], ["aria-hidden", "true"]]) {
    svg.setAttribute(key, value);
  }
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const BUSY = new Set(["starting", "sent", "checking", "processing"]);

/** The buttons that apply. @param {Transfer} transfer @returns {string[]} */
function actionsFor(transfer) {
  if (transfer.state === "paused") return ["resume", "cancel"];
  if (["sending", "sent", "waiting"].includes(transfer.state)) return ["pause", "cancel"];
  if (transfer.underWay) return ["cancel"];
  if (transfer.state !== "error") return [];
  if (NEEDS_RELOAD.has(transfer.problem?.code ?? "")) return ["reload", "remove"];
  return transfer.canRetry ? ["retry", "remove"] : ["remove"];
}

const ACTIONS = ["pause", "resume", "retry", "reload", "cancel", "remove"];
let rows = 0;

/** What one file looks like. */
class Row {
  /** What gets the focus when no button is left. @type {HTMLElement | undefined} */
  fallback;

  /** @param {Transfer} transfer @param {(action: string) => void} act */
  constructor(transfer, act) {
    const { file } = transfer;
    this.preview = element("div", { class: "rindle-preview" }, icon("file"));
    this.status = element("p", { class: "rindle-status", id: `rindle-status-${(rows += 1)}` });
    const progressName = fill(messages.progressOf, { name: file.name });
    this.bar = element("progress", { class: "rindle-progress", max: 100, "aria-label": progressName });
    this.buttons = new Map(ACTIONS.map((name) => [name, this.button(name, file, act)]));
    this.node = element(
      "li",
      { class: "rindle-item" },
      this.preview,
      element(
        "div",
        { class: "rindle-facts" },
        element("p", { class: "rindle-name", dir: "auto", title: file.name }, file.name),
        element("p", { class: "rindle-size", dir: "auto" }, formatBytes(file.size)),
      ),
      this.bar,
      this.status,
      element("div", { class: "rindle-actions" }, ...this.buttons.values()),
    );
    this.spoken = { message: "", quarter: 0, at: 0 };
    this.draw(file);
  }

  /** @param {string} name @param {File} file @param {(action: string) => void} act @returns {HTMLButtonElement} */
  button(name, file, act) {
    const text = /** @type {Record<string, string>} */ (messages)[name];
    const node = element("button", { type: "button", class: `rindle-button rindle-button-${name}`, hidden: "" }, text);
    node.setAttribute("aria-label", fill(messages.action, { action: text, name: file.name }));
    node.addEventListener("click", () => act(name));
    return node;
  }

  /** @param {File} file */
  async draw(file) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    if ((await drawPreview(canvas, file)) && !this.preview.querySelector("picture")) this.preview.replaceChildren(canvas);
  }

  /** @param {Transfer} transfer */
  render(transfer) {
    const { state, loaded, file } = transfer;
    const percent = Math.floor((100 * loaded) / file.size) || 0;
    this.node.dataset.state = state;
    this.write(transfer.message, state, percent);
    this.bar.hidden = state === "ready" || state === "error";
    if (BUSY.has(state)) this.bar.removeAttribute("value");
    else this.bar.value = percent;
    this.offer(actionsFor(transfer));
  }

  /** @param {string} message @param {string} state @param {number} percent */
  write(message, state, percent) {
    const parts = [element("span", { dir: "auto" }, message)];
    if (state === "ready" || state === "error") parts.unshift(icon(state));
    if (state === "sending") {
      parts.push(element("span", { class: "rindle-percent", dir: "auto" }, fill(messages.percent, { percent })));
    }
    this.status.replaceChildren(...parts);
  }

  /** Shows these buttons and no others; a focus that would be lost goes to the nearest one. @param {string[]} names */
  offer(names) {
    const focused = [...this.buttons.values()].includes(/** @type {any} */ (document.activeElement)) && document.activeElement;
    const visible = names.map((name) => this.buttons.get(name));
    for (const [name, button] of this.buttons) button.hidden = !names.includes(name);
    if (focused instanceof HTMLElement && focused.hidden) (visible[0] ?? this.fallback)?.focus();
  }
}

/* --------------------------------------------------------------- elements */

/** Children are there, and a page's own modules have had their say. @param {() => void} callback */
function whenParsed(callback) {
  const [navigation] = performance.getEntriesByType?.("navigation") ?? [];
  const parsed = /** @type {PerformanceNavigationTiming | undefined} */ (navigation)?.domContentLoadedEventStart;
  if (document.readyState === "complete" || parsed) callback();
  else addEventListener("DOMContentLoaded", callback, { once: true });
}

/** @param {Element} node @param {string} name @param {object} detail */
function emit(node, name, detail) {
  node.dispatchEvent(new CustomEvent(`rindle:${name}`, { bubbles: true, detail }));
}

/** Elements that would lose something if the page were left. @type {Set<Element>} */
const unfinished = new Set();

/** @param {BeforeUnloadEvent} event */
const askBeforeLeaving = (event) => event.preventDefault();

/**
 * Asks before the page is left, and only while it matters: the listener costs the back-forward cache.
 * @param {Element} node @param {boolean} busy
 */
function guardPage(node, busy) {
  if (busy) unfinished.add(node);
  else unfinished.delete(node);
  if (unfinished.size) addEventListener("beforeunload", askBeforeLeaving);
  else removeEventListener("beforeunload", askBeforeLeaving);
}

/** Import-safe where there is no DOM. */
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});
const FILES_AT_ONCE = 2;
const QUIET_TIME = 5000;

/** The upload form, upgraded: direct upload, progress, pause and resume, readiness. */
export class RindleUpload extends Base {
  /** @type {Map<Transfer, Row>} */
  #rows = new Map();
  /** @type {Map<Transfer, HTMLElement>} */
  #pictures = new Map();
  #queue = new Queue(FILES_AT_ONCE);
  /** Set when the form is there. @type {HTMLInputElement} */
  input = /** @type {any} */ (undefined);
  /** @type {Api} */
  api = /** @type {any} */ (undefined);
  /** @type {Memory} */
  memory = /** @type {any} */ (undefined);
  /** @type {HTMLElement} */
  list = /** @type {any} */ (undefined);
  /** @type {HTMLElement} */
  live = /** @type {any} */ (undefined);
  hints = "";

  connectedCallback() {
    whenParsed(() => this.isConnected && this.#enhance());
  }

  /** Being moved is not being removed. */
  disconnectedCallback() {
    queueMicrotask(() => {
      if (!this.isConnected) for (const transfer of [...this.#rows.keys()]) this.#drop(transfer);
    });
  }

  pause() {
    for (const transfer of this.#rows.keys()) transfer.pause();
  }

  resume() {
    for (const transfer of this.#rows.keys()) transfer.resume();
  }

  retry() {
    for (const transfer of this.#rows.keys()) transfer.retry();
  }

  /** Cancels what is not at the server yet. @returns {Promise<unknown>} */
  cancel() {
    return Promise.all([...this.#rows.keys()].filter((t) => t.underWay || t.state === "paused").map((t) => this.#cancel(t)));
  }

  /** Takes files as if they had been chosen. @param {Iterable<File>} files */
  add(files) {
    if (!this.input) return;
    for (const file of this.input.multiple ? files : [...files].slice(0, 1)) this.#begin(file);
  }

  #enhance() {
    const form = this.querySelector("form");
    const input = /** @type {HTMLInputElement | null} */ (form?.querySelector('input[type="file"]') ?? null);
    if (!form || !input || this.input) return;
    this.input = input;
    this.hints = input.getAttribute("aria-describedby") ?? "";
    this.api = new Api(this.dataset.uploadsUrl ?? "", new FormData(form).get("ticket")?.toString() ?? "");
    this.memory = new Memory(this.api.url);
    this.list = element("ul", { class: "rindle-list", "aria-label": messages.files });
    this.live = element("p", { class: "rindle-live", role: "status", "aria-live": "polite" });
    this.#dress(form, input);
    this.#listen(form, input);
    if (input.files?.length) this.#take(input); // chosen before the script came
  }

  /** @param {HTMLFormElement} form @param {HTMLInputElement} input */
  #dress(form, input) {
    const many = input.multiple;
    const drop = element("span", { class: "rindle-drop" }, many ? messages.dropMany : messages.drop);
    const choose = element("strong", {}, many ? messages.chooseMany : messages.choose);
    input.before(icon("upload"), element("p", { class: "rindle-invite", "aria-hidden": "true" }, choose, " ", drop));
    for (const button of form.querySelectorAll("button")) button.hidden = true;
    form.append(this.list, this.live);
    this.toggleAttribute("data-multiple", many);
    this.toggleAttribute("data-enhanced", true);
  }

  /** @param {HTMLFormElement} form @param {HTMLInputElement} input */
  #listen(form, input) {
    input.addEventListener("change", () => this.#take(input));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return; // would submit an empty form; Space opens the chooser in every browser
      event.preventDefault();
      input.click();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#take(input);
    });
    this.addEventListener("paste", (event) => this.#receive(event, event.clipboardData));
    this.addEventListener("drop", (event) => {
      this.toggleAttribute("data-drag", false);
      this.#receive(event, event.dataTransfer);
    });
    this.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      this.toggleAttribute("data-drag", true);
    });
    this.addEventListener("dragleave", (event) => {
      if (!this.contains(/** @type {Node | null} */ (event.relatedTarget))) this.toggleAttribute("data-drag", false);
    });
  }

  /** Empties the input: the same file can be chosen again, and no submit can send it twice. @param {HTMLInputElement} input */
  #take(input) {
    const files = [...(input.files ?? [])];
    input.value = "";
    this.add(files);
  }

  /** @param {Event} event @param {DataTransfer | null} data */
  #receive(event, data) {
    if (!data?.files.length) return;
    event.preventDefault();
    this.add([...data.files]);
  }

  /** @param {File} file */
  #begin(file) {
    const same = [...this.#rows.keys()].find((each) => each.isLarge && this.memory.key(each.file) === this.memory.key(file));
    if (same?.goOn()) return;
    const transfer = new Transfer(file, this.api, this.memory, {
      changed: (t) => this.#changed(t),
      enqueue: (t) => this.#enqueue(t),
      place: (t, picture) => this.#place(t, picture),
      emit: (name, detail) => emit(this, name, detail),
    });
    if (!this.input.multiple) transfer.after = this.#makeRoom();
    this.#addRow(transfer);
    emit(this, "added", { file });
    const trouble = checkFile(file, { accept: this.input.accept, maxBytes: Number(this.dataset.maxBytes) });
    if (trouble) transfer.fail(new Problem({ status: 422, ...trouble }));
    else transfer.enqueue();
  }

  /** One file at a time: what has not arrived goes. What has stays until its successor has arrived, too. */
  #makeRoom() {
    const rest = [...this.#rows.keys()].filter((transfer) => !transfer.accepted);
    return Promise.all(rest.map((transfer) => this.#drop(transfer)));
  }

  /** @param {Transfer} transfer */
  #addRow(transfer) {
    const row = new Row(transfer, (action) => this.#act(transfer, action));
    row.fallback = this.input;
    this.#rows.set(transfer, row);
    this.list.append(row.node);
  }

  /** @param {Transfer} transfer */
  #enqueue(transfer) {
    this.#queue.add(() => transfer.run());
  }

  /** @param {Transfer} transfer @param {string} action */
  #act(transfer, action) {
    if (action === "reload") location.reload();
    else if (action === "cancel" || action === "remove") this.#cancel(transfer);
    else transfer[/** @type {"pause" | "resume" | "retry"} */ (action)]();
  }

  /** @param {Transfer} transfer */
  #cancel(transfer) {
    if (transfer.state !== "error") this.#say(transfer.file.name, messages.cancelled);
    if (this.#rows.get(transfer)?.node.contains(document.activeElement)) this.input.focus();
    return this.#drop(transfer);
  }

  /** @param {Transfer} transfer */
  #drop(transfer) {
    this.#rows.get(transfer)?.node.remove();
    this.#rows.delete(transfer);
    this.#guard();
    return transfer.cancel();
  }

  /** @param {Transfer} transfer */
  #changed(transfer) {
    const row = this.#rows.get(transfer);
    if (!row) return;
    row.render(transfer);
    this.#announce(transfer, row);
    this.#markInvalid(transfer, row);
    this.#guard();
    if (transfer.state === "processing" && !this.input.multiple) this.#retire(transfer);
  }

  /** Takes away the finished row that this one succeeds. @param {Transfer} successor */
  #retire(successor) {
    for (const transfer of [...this.#rows.keys()]) if (transfer !== successor) this.#drop(transfer);
  }

  /**
   * Coarse steps only: every change of the text, and a new quarter if nothing was said for a while.
   * @param {Transfer} transfer @param {Row} row
   */
  #announce({ state, message, file, loaded }, row) {
    const quarter = state === "sending" ? 25 * Math.floor((4 * loaded) / file.size) : 0;
    const { spoken } = row;
    const news = message !== spoken.message;
    if (!news && (quarter <= spoken.quarter || performance.now() - spoken.at < QUIET_TIME)) return;
    row.spoken = { message, quarter, at: performance.now() };
    this.#say(file.name, news ? message : `${message} ${fill(messages.percent, { percent: quarter })}`);
  }

  /** @param {string} name @param {string} text */
  #say(name, text) {
    this.live.textContent = fill(messages.announcement, { name, text });
  }

  /** @param {Transfer} transfer @param {Row} row */
  #markInvalid(transfer, row) {
    const wrong = transfer.state === "error";
    assign(this.input, "aria-invalid", wrong ? "true" : "");
    assign(this.input, "aria-describedby", [this.hints, wrong ? row.status.id : ""].filter(Boolean).join(" "));
  }

  #guard() {
    guardPage(this, [...this.#rows.keys()].some((transfer) => transfer.underWay || transfer.state === "paused"));
  }

  /** @param {Transfer} transfer @param {Picture} picture */
  async #place(transfer, picture) {
    const key = JSON.stringify(picture);
    if (transfer.shown === key) return;
    transfer.shown = key;
    const target = this.dataset.target ? document.getElementById(this.dataset.target) : null;
    const place = target ?? this.#rows.get(transfer)?.preview;
    const old = this.#pictures.get(transfer);
    const node = buildPicture(picture, { class: target?.querySelector("img")?.className });
    await decoded(node);
    if (transfer.shown !== key) return;
    this.#pictures.set(transfer, node);
    if (old?.isConnected) old.replaceWith(node);
    else if (target && this.input.multiple) target.append(node);
    else place?.replaceChildren(node);
  }
}

/** The place of a picture that is still being made. */
export class RindlePicture extends Base {
  /** @type {Watcher | undefined} */
  watcher;
  /** @type {string | undefined} */
  shown;
  over = false;

  connectedCallback() {
    this.watcher ??= new Watcher({
      stateUrl: this.dataset.stateUrl ?? "",
      eventsUrl: this.dataset.eventsUrl,
      onState: (state) => this.#follow(state),
      onFailure: (problem) => this.#fail(problem),
    });
    if (!this.over) this.watcher.start();
  }

  disconnectedCallback() {
    this.watcher?.stop();
  }

  /** @param {AssetState} state */
  async #follow(state) {
    if (state.error) return this.#fail(state.error);
    if (state.settled) this.over = true;
    if (state.picture) await this.#show(state.picture);
    if (!state.settled) return undefined;
    this.querySelector(".rindle-placeholder")?.remove();
    if (!state.picture) return this.#fail(guess(500));
    return emit(this, "ready", { asset: { id: state.asset_id, ...state } });
  }

  /** The placeholder stays beside a picture that is not the last one. @param {Picture} picture */
  async #show(picture) {
    const key = JSON.stringify(picture);
    if (key === this.shown) return;
    this.shown = key;
    const node = buildPicture(picture, { alt: this.dataset.alt, class: this.dataset.class });
    await decoded(node);
    if (this.shown !== key) return;
    this.querySelector("picture")?.remove();
    this.prepend(node);
  }

  /** @param {Trouble} trouble */
  #fail({ code, detail }) {
    this.over = true;
    this.replaceChildren(element("span", { class: "rindle-notice", role: "status" }, icon("error"), element("span", {}, detail)));
    emit(this, "error", { code, detail });
  }
}

/** A second copy of the module leaves the first one's elements alone. @param {string} name @param {typeof HTMLElement} constructor */
function define(name, constructor) {
  if (globalThis.customElements && !customElements.get(name)) customElements.define(name, constructor);
}

define("rindle-upload", RindleUpload);
define("rindle-picture", RindlePicture);
