// Uploads in parts and resumable ones, against a server and a storage in memory: node --test tests/js/
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

const source = await readFile(new URL("../../flask_rindle/static/rindle/rindle.js", import.meta.url));
const rindle = await import(`data:text/javascript;base64,${source.toString("base64")}`);
const { Memory, Problem, Signatures, Tally, Transfer, messages } = rindle;
const { inParallel, missingParts, parseProblem, parseRange, partRange, pieceEnd, withGrant } = rindle;

const MB = 1024 * 1024;
const DAY = 86_400_000;
const GRANULE = 256 * 1024;

/** Lets everything happen that only waits for something else to happen. */
const settle = async () => {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((done) => setImmediate(done));
};

/** What `localStorage` is: keys are properties, values are text. */
class FakeStore {
  getItem(key) {
    return Object.hasOwn(this, key) ? this[key] : null;
  }

  setItem(key, value) {
    this[key] = String(value);
  }

  removeItem(key) {
    delete this[key];
  }
}

describe("cutting", () => {
  test("parts are numbered from one and the last is smaller", () => {
    assert.deepEqual([1, 2, 3].map((number) => partRange(number, 4, 10)), [[0, 4], [4, 8], [8, 10]]);
  });

  test("a file that fits exactly has no empty part behind it", () => assert.deepEqual(partRange(2, 5, 10), [5, 10]));

  test("missing is what is not there, or not whole", () => {
    const layout = { part_bytes: 4, part_count: 3 };
    assert.deepEqual(missingParts(layout, 10), [1, 2, 3]);
    assert.deepEqual(missingParts(layout, 10, [{ number: 2, byte_size: 4 }]), [1, 3]);
    assert.deepEqual(missingParts(layout, 10, [{ number: 1, byte_size: 3 }, { number: 3, byte_size: 4 }]), [1, 2, 3]);
    assert.deepEqual(missingParts(layout, 10, [1, 2, 3].map((number) => ({ number, byte_size: number < 3 ? 4 : 2 }))), []);
  });

  test("pieces are multiples of the chunk, except the last", () => {
    assert.equal(pieceEnd(0, 100 * MB, GRANULE), 16 * MB);
    assert.equal(pieceEnd(GRANULE, 100 * MB, GRANULE), 16 * MB + GRANULE);
    assert.equal(pieceEnd(0, 100 * MB, 5 * MB), 15 * MB);
    assert.equal(pieceEnd(0, 100 * MB, 24 * MB), 24 * MB);
    assert.equal(pieceEnd(90 * MB, 100 * MB, GRANULE), 100 * MB);
  });

  test("a Range says how much is there", () => {
    assert.equal(parseRange("bytes=0-0"), 1);
    assert.equal(parseRange("bytes=0-262143"), GRANULE);
    for (const value of [null, "", "bytes=5-9", "bytes 0-9/10", "0-9"]) assert.equal(parseRange(value), null);
  });
});

describe("progress over parts", () => {
  test("finished bytes and those on their way", () => {
    const tally = new Tally(10);
    tally.running.set(1, 3);
    tally.running.set(2, 5);
    tally.running.set(1, 4);
    assert.equal(tally.loaded, 19);
    tally.finish(1, 8);
    assert.equal(tally.loaded, 23);
  });

  test("a part that fails takes back its own bytes only", () => {
    const tally = new Tally(0);
    tally.running.set(1, 3);
    tally.running.set(2, 5);
    tally.running.delete(2);
    assert.equal(tally.loaded, 3);
  });
});

describe("signatures", () => {
  const numbers = (count) => Array.from({ length: count }, (_, index) => index + 1);
  const signing = () => mock.fn(async (asked) => ({ parts: asked.map((number) => ({ number, url: `${number}` })) }));
  const batches = (sign) => sign.mock.calls.map((call) => call.arguments[0]);

  test("ten at a time, ahead", async () => {
    const sign = signing();
    const signatures = new Signatures(numbers(23), sign);
    const taken = await Promise.all(numbers(23).map((number) => signatures.take(number)));
    assert.deepEqual(taken.map((grant) => grant.url), numbers(23).map(String));
    assert.deepEqual(batches(sign), [numbers(10), numbers(20).slice(10), [21, 22, 23]]);
  });

  test("a part that asks again gets a fresh one, and what comes next", async () => {
    const sign = signing();
    const signatures = new Signatures(numbers(12), sign);
    await signatures.take(1);
    await signatures.take(1);
    assert.deepEqual(batches(sign), [numbers(10), [1, 11, 12]]);
  });

  test("dropped ones are asked for anew, once each", async () => {
    const sign = signing();
    const signatures = new Signatures(numbers(12), sign);
    await signatures.take(1);
    signatures.drop();
    for (const number of numbers(12)) await signatures.take(number);
    assert.deepEqual(batches(sign), [numbers(10), numbers(10), [11, 12]]);
  });

  test("a batch that fails is asked for again", async () => {
    const broken = new Problem({ code: "network", detail: "" });
    const sign = signing();
    sign.mock.mockImplementationOnce(async () => { throw broken; });
    const signatures = new Signatures(numbers(3), sign);
    const first = await Promise.allSettled([1, 2].map((number) => signatures.take(number)));
    assert.deepEqual(first.map((each) => each.status), ["rejected", "rejected"]);
    const again = await Promise.all([1, 2, 3].map((number) => signatures.take(number)));
    assert.deepEqual(again.map((grant) => grant.number), [1, 2, 3]);
  });
});

describe("several at once", () => {
  const never = new AbortController().signal;

  test("three of five, in order", async () => {
    const begun = [];
    const open = [];
    const all = inParallel([1, 2, 3, 4, 5], 3, (item) => new Promise((done) => {
      begun.push(item);
      open.push(done);
    }), never);
    await settle();
    assert.deepEqual(begun, [1, 2, 3]);
    open[1]();
    await settle();
    assert.deepEqual(begun, [1, 2, 3, 4]);
    for (let turn = 0; turn < 2; turn += 1) {
      open.forEach((done) => done());
      await settle();
    }
    await all;
    assert.deepEqual(begun, [1, 2, 3, 4, 5]);
  });

  test("one failure stops the others, and nothing new begins", async () => {
    const begun = [];
    const stopped = [];
    const all = inParallel([1, 2, 3, 4], 2, (item, signal) => new Promise((_, reject) => {
      begun.push(item);
      if (item === 2) reject(new Error("two"));
      else signal.addEventListener("abort", () => reject(stopped.push(item)));
    }), never);
    await assert.rejects(all, { message: "two" });
    await settle();
    assert.deepEqual([begun, stopped], [[1, 2], [1]]);
  });

  test("who stops it says why", async () => {
    const abort = new AbortController();
    const all = inParallel([1], 3, (_, signal) => new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    }), abort.signal);
    abort.abort("paused");
    await assert.rejects(all, (reason) => reason === "paused");
  });
});

describe("a URL that has expired", () => {
  const refused = new Problem({ status: 403, code: "", detail: "" });

  test("once more with a fresh one", async () => {
    const urls = ["old", "fresh"];
    const drop = mock.fn();
    const put = async (url) => {
      if (url === "old") throw refused;
      return url;
    };
    assert.equal(await withGrant(async () => urls.shift(), put, drop), "fresh");
    assert.equal(drop.mock.callCount(), 1);
  });

  test("a second 403 is an answer, and so is any other", async () => {
    for (const [problem, times] of [[refused, 2], [new Problem({ status: 404, code: "", detail: "" }), 1]]) {
      const put = mock.fn(async () => { throw problem; });
      await assert.rejects(withGrant(async () => "", put), problem);
      assert.equal(put.mock.callCount(), times);
    }
  });

  test("what S3 says to a silent line is no refusal", () => {
    assert.equal(parseProblem(400, "application/xml", "<Error><Code>RequestTimeout</Code></Error>").transient, true);
    assert.equal(parseProblem(400, "application/xml", "<Error><Code>BadDigest</Code></Error>").transient, false);
  });
});

describe("the memory", () => {
  const film = { name: "secret wedding.mov", size: 5, lastModified: 7, type: "video/quicktime" };
  let store;

  beforeEach(() => {
    mock.timers.enable({ apis: ["Date"] });
    Memory.inHand.clear();
    globalThis.localStorage = store = new FakeStore();
  });
  afterEach(() => {
    mock.timers.reset();
    delete globalThis.localStorage;
  });
  /** Another page: it has nothing in hand. */
  const visit = (url = "/rindle/uploads") => {
    Memory.inHand.clear();
    return new Memory(url);
  };

  test("another visit finds it, a completed one is gone", () => {
    visit().keep(film, "one");
    assert.equal(visit().take(film), "one");
    visit().forget(film, "another");
    assert.equal(visit().take(film), "one");
    visit().forget(film, "one");
    assert.equal(visit().take(film), undefined);
    assert.deepEqual(Object.keys(store), []);
  });

  test("any difference is another file, and so is another site's route", () => {
    visit().keep(film, "one");
    for (const other of [{ name: "b" }, { size: 6 }, { lastModified: 8 }, { type: "" }]) {
      assert.equal(visit().take({ ...film, ...other }), undefined);
    }
    assert.equal(visit("/other").take(film), undefined);
  });

  test("nobody can read what was sent, nor send it", () => {
    visit().keep(film, "one");
    assert.doesNotMatch(JSON.stringify(store), /secret|wedding|rindle\/uploads/);
    assert.deepEqual(Object.keys(JSON.parse(Object.values(store)[0])), ["id", "at"]);
  });

  test("after seven days it is removed, without being asked for", () => {
    visit().keep(film, "one");
    store.setItem("theirs", "stays");
    mock.timers.tick(7 * DAY - 1);
    assert.equal(visit().take(film), "one");
    mock.timers.tick(1);
    visit();
    assert.deepEqual(Object.keys(store), ["theirs"]);
  });

  test("what somebody else wrote there is removed", () => {
    store.setItem("rindle-upload:x", "{broken");
    store.setItem("rindle-upload:y", "null");
    visit();
    assert.deepEqual(Object.keys(store), []);
  });

  test("the same file twice on one page is two uploads", () => {
    const memory = visit();
    memory.keep(film, "one");
    assert.equal(memory.take(film), undefined);
  });

  test("a browser that forbids it is no error", () => {
    Object.defineProperty(globalThis, "localStorage", { get: () => { throw new Error("forbidden"); }, configurable: true });
    const memory = visit();
    memory.keep(film, "one");
    assert.equal(visit().take(film), undefined);
    memory.forget(film, "one");
  });

  test("a full one is no error", () => {
    store.setItem = () => { throw new Error("full"); };
    visit().keep(film, "one");
    assert.equal(visit().take(film), undefined);
  });
});

/** The server and its storage, as docs/http.md describes them; `faults` come first. */
class World {
  constructor(strategy, layout) {
    Object.assign(this, { strategy, layout });
    this.sessions = [];
    this.asked = [];
    this.puts = [];
    this.faults = [];
    this.signedAt = 0;
    this.showsRange = true;
    // So many PUTs are answered; later ones hang.
    this.patience = Infinity;
  }

  open(size) {
    const session = { id: `s${this.sessions.length + 1}`, state: "initialized", size, parts: new Map(), bytes: 0, lost: false };
    this.sessions.push(session);
    return session;
  }

  describe(session) {
    const { strategy } = this;
    const upload = { multipart: this.layout, resumable: { ...this.layout, url: `/storage/${session.id}/0` } }[strategy];
    const parts = [...session.parts].map(([number, bytes]) => ({ number, byte_size: bytes.length }));
    return {
      id: session.id, state: session.state, strategy, byte_size: session.size, received_bytes: session.bytes, parts,
      upload: upload ?? this.sign(session, 0), state_url: "/state", events_url: null,
    };
  }

  sign(session, number) {
    this.signedAt += 1;
    const url = `/storage/${session.id}/${number}?signed=${this.signedAt}`;
    return { number, url, method: "PUT", headers: { "Content-Length": "1" }, expires_at: "" };
  }

  async fetch(url, { method = "GET", body } = {}) {
    const [, id, verb = ""] = /^\/rindle\/uploads(?:\/(\w+))?(?:\/(\w+))?$/.exec(url) ?? [null, "state"];
    const json = body ? JSON.parse(body) : {};
    if (id === "state") return Response.json({ asset_id: "a1", state: "ready", settled: true, picture: null, error: null });
    this.asked.push(`${method} ${[id, verb].filter(Boolean).join("/")}`.trim());
    const fault = this.faults.findIndex((each) => each.on === (verb || method));
    if (fault >= 0) return refusal(this.faults.splice(fault, 1)[0]);
    const session = id ? this.sessions.find((each) => each.id === id) : this.open(json.byte_size);
    if (!session) return refusal({ status: 404, code: "not_found" });
    return this[`${method}_${verb}`](session, json);
  }

  POST_(session) {
    return Response.json(this.describe(session), { status: 201 });
  }

  GET_(session) {
    return session.lost ? refusal({ status: 409, code: "session_closed" }) : Response.json(this.describe(session));
  }

  POST_parts(session, { numbers }) {
    return Response.json({ parts: numbers.map((number) => this.sign(session, number)) });
  }

  POST_sign(session) {
    return Response.json({ upload: this.sign(session, 0) });
  }

  POST_complete(session) {
    if (this.strategy === "multipart" && session.parts.size < this.layout.part_count) {
      return refusal({ status: 409, code: "upload_incomplete" });
    }
    session.state = "completed";
    return Response.json({ ...this.describe(session), upload: undefined });
  }

  DELETE_(session) {
    session.state = "aborted";
    return new Response(null, { status: 204 });
  }

  /** What the storage answers to a PUT. */
  async store(url, headers, body) {
    const [, id, number] = /^\/storage\/(\w+)\/(\d+)/.exec(url);
    this.puts.push({ url, id, number: Number(number), range: headers["Content-Range"] });
    const fault = this.faults.findIndex((each) => each.on === "PUT" && (each.number ?? Number(number)) === Number(number));
    if (fault >= 0) {
      const found = this.faults.splice(fault, 1)[0];
      found.effect?.(this.sessions.find((each) => each.id === id));
      return found;
    }
    if (this.puts.length > this.patience) await new Promise(() => {});
    const session = this.sessions.find((each) => each.id === id);
    if (session.lost) return { status: 404 };
    const bytes = new Uint8Array(await body.arrayBuffer());
    if (this.strategy === "resumable") return this.append(session, headers["Content-Range"], bytes);
    session.parts.set(Number(number), bytes);
    return { status: 200 };
  }

  append(session, range, bytes) {
    const [, start, last, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(range).map(Number);
    if (start !== session.bytes || last - start + 1 !== bytes.length) return { status: 400 };
    if (last + 1 < total && bytes.length % GRANULE) return { status: 400 };
    session.bytes = last + 1;
    if (session.bytes === total) return { status: 200 };
    return { status: 308, headers: this.showsRange ? { Range: `bytes=0-${last}` } : {} };
  }
}

const refusal = ({ status, code, detail = code }) => {
  if (status === 0) throw new TypeError("network");
  return Response.json({ status, code, detail }, { status });
};

const fakeXhr = (world) => class {
  upload = {};
  headers = {};
  status = 0;
  responseText = "";

  open(method, url) {
    this.url = url;
  }

  setRequestHeader(name, value) {
    this.headers[name] = value;
  }

  getResponseHeader(name) {
    return this.answer.headers?.[name] ?? null;
  }

  async send(body) {
    this.upload.onprogress({ loaded: Math.ceil(body.size / 2) });
    this.answer = await world.store(this.url, this.headers, body);
    if (this.over) return;
    this.over = true;
    this.status = this.answer.status;
    if (this.status) this.upload.onload();
    if (this.status) this.onload();
    else this.onerror();
    this.onloadend();
  }

  abort() {
    if (this.over) return;
    this.over = true;
    this.onabort();
    this.onloadend();
  }
};

describe("a large file", () => {
  let world, seen, store, transfers;

  const part = { part_bytes: 4, part_count: 5 };
  const bytes = Uint8Array.from({ length: 18 }, (_, index) => index);
  const film = (size = 18) => new File([size === 18 ? bytes : new Uint8Array(size)], "film.mov", { lastModified: 5 });
  const calls = (text) => world.asked.filter((each) => each === text).length;
  const sentParts = () => world.puts.map((put) => put.number).sort();
  const whole = (session) => [...session.parts].sort(([a], [b]) => a - b).flatMap(([, each]) => [...each]);

  const begin = (strategy = "multipart", layout = part, file = film()) => {
    world ??= new World(strategy, layout);
    globalThis.XMLHttpRequest = fakeXhr(world);
    seen = [];
    const api = Object.create({
      call: async (method, path, json) => {
        let response;
        try {
          response = await world.fetch(`/rindle/uploads${path}`, { method, body: json && JSON.stringify(json) });
        } catch {
          throw new Problem({ code: "network", detail: messages.network });
        }
        const text = await response.text();
        if (!response.ok) throw parseProblem(response.status, response.headers.get("Content-Type"), text);
        return text ? JSON.parse(text) : null;
      },
      open: (given) => api.call("POST", "", { byte_size: given.size }),
      look: (id) => api.call("GET", `/${id}`),
      sign: (id) => api.call("POST", `/${id}/sign`),
      signParts: (id, numbers) => api.call("POST", `/${id}/parts`, { numbers }),
      complete: (id) => api.call("POST", `/${id}/complete`),
      cancel: (id) => api.call("DELETE", `/${id}`),
    });
    const transfer = new Transfer(file, api, new Memory("/rindle/uploads"), {
      changed: (each) => seen.push([each.state, each.message]),
      enqueue: (each) => each.run(),
      place: () => {},
      emit: (name, detail) => name === "progress" && seen.push(["progress", detail.loaded]),
    });
    transfers.push(transfer);
    transfer.enqueue();
    return transfer;
  };
  /** Lets time pass until it is over, or until the condition holds. */
  const until = async (transfer, condition = () => ["ready", "error"].includes(transfer.state)) => {
    for (let turn = 0; turn < 40 && !condition(); turn += 1) {
      await settle();
      if (!condition()) mock.timers.tick(1000);
    }
    assert.ok(condition(), `${transfer.state}: ${transfer.message}`);
  };
  const leave = () => {
    Memory.inHand.clear();
    world.patience = Infinity;
    world.puts = [];
    world.asked = [];
  };

  beforeEach(() => {
    mock.timers.enable({ apis: ["setTimeout", "Date"] });
    globalThis.localStorage = store = new FakeStore();
    mock.method(globalThis, "fetch", (url, init) => world.fetch(url, init));
    Memory.inHand.clear();
    world = undefined;
    transfers = [];
  });
  afterEach(() => {
    for (const transfer of transfers) transfer.watcher?.stop();
    mock.timers.reset();
    mock.restoreAll();
    delete globalThis.localStorage;
    delete globalThis.XMLHttpRequest;
  });

  test("arrives in parts, each sent once, and is forgotten", async () => {
    const transfer = begin();
    await until(transfer);
    assert.equal(transfer.state, "ready");
    assert.deepEqual(whole(world.sessions[0]), [...bytes]);
    assert.deepEqual(sentParts(), [1, 2, 3, 4, 5]);
    assert.deepEqual(world.asked, ["POST", "POST s1/parts", "POST s1/complete"]);
    assert.deepEqual(Object.keys(store), []);
  });

  test("progress rises to the end", async () => {
    await until(begin());
    const loaded = seen.filter(([name]) => name === "progress").map(([, value]) => value);
    assert.deepEqual(loaded, [...loaded].sort((a, b) => a - b));
    assert.equal(loaded.at(-1), 18);
  });

  for (const status of [0, 500, 503, 429]) {
    test(`a part that fails with ${status} is sent again, the others are not`, async () => {
      world = new World("multipart", part);
      world.faults = [{ on: "PUT", number: 2, status }, { on: "PUT", number: 2, status }];
      const transfer = begin();
      await until(transfer);
      assert.equal(transfer.state, "ready");
      assert.deepEqual(sentParts(), [1, 2, 2, 2, 3, 4, 5]);
    });
  }

  test("one part's waiting is no news while others move", async () => {
    world = new World("multipart", part);
    world.patience = 0;
    world.faults = [{ on: "PUT", number: 1, status: 500 }];
    const transfer = begin();
    await settle();
    assert.deepEqual([world.faults, transfer.state], [[], "sending"]);
    assert.ok(seen.every(([state]) => state !== "waiting"));
  });

  test("when all of them wait it is said", async () => {
    world = new World("multipart", part);
    world.faults = [1, 2, 3].map((number) => ({ on: "PUT", number, status: 500 }));
    const transfer = begin();
    await settle();
    assert.equal(transfer.state, "waiting");
    await until(transfer);
    assert.equal(transfer.state, "ready");
  });

  test("a 403 fetches a fresh URL, once", async () => {
    world = new World("multipart", part);
    world.faults = [{ on: "PUT", number: 3, status: 403 }];
    await until(begin());
    const urls = world.puts.filter((put) => put.number === 3).map((put) => put.url);
    assert.equal(new Set(urls).size, 2);
    assert.equal(transfers[0].state, "ready");
  });

  test("a second 403 is final, and is not remembered", async () => {
    world = new World("multipart", part);
    world.faults = [1, 2].map(() => ({ on: "PUT", number: 3, status: 403 }));
    await until(begin());
    assert.equal(transfers[0].state, "error");
    assert.deepEqual(Object.keys(store), []);
  });

  test("trouble that lasts ends it, and trying again sends only what is missing", async () => {
    world = new World("multipart", { part_bytes: 4, part_count: 5 });
    world.faults = Array.from({ length: 4 }, () => ({ on: "PUT", number: 5, status: 500 }));
    const transfer = begin();
    await until(transfer);
    assert.equal(transfer.state, "error");
    assert.equal(Object.keys(store).length, 1);
    world.puts = [];
    transfer.retry();
    await until(transfer);
    assert.equal(transfer.state, "ready");
    assert.deepEqual(sentParts(), [5]);
  });

  test("a storage that lost the upload gets all of it in a new session, once", async () => {
    world = new World("multipart", part);
    world.faults = [{ on: "PUT", number: 4, effect: (session) => { session.lost = true; }, status: 404 }];
    await until(begin());
    assert.equal(transfers[0].state, "ready");
    assert.equal(calls("DELETE s1"), 1);
    assert.deepEqual(whole(world.sessions[1]), [...bytes]);

    world = new World("multipart", part);
    world.faults = [1, 2].map(() => ({ on: "PUT", number: 1, status: 404 }));
    await until(begin());
    assert.equal(transfers[1].state, "error");
    assert.equal(world.sessions.length, 2);
  });

  test("parts that are missing at the end are sent, and no others", async () => {
    world = new World("multipart", part);
    // The storage took it, and has it not.
    world.faults = [{ on: "PUT", number: 2, status: 200 }];
    await until(begin());
    assert.equal(transfers[0].state, "ready");
    assert.deepEqual(sentParts(), [1, 2, 2, 3, 4, 5]);
    assert.deepEqual(whole(world.sessions[0]), [...bytes]);
  });

  test("a server that never finds it whole is believed in the end", async () => {
    world = new World("multipart", part);
    world.faults = Array.from({ length: 9 }, () => ({ on: "complete", status: 409, code: "upload_incomplete" }));
    await until(begin());
    assert.equal(transfers[0].problem.code, "upload_incomplete");
    assert.equal(calls("POST s1/complete"), 4);
  });

  test("pausing keeps what has arrived; resuming asks, and sends the rest", async () => {
    world = new World("multipart", part);
    world.patience = 2;
    const transfer = begin();
    await until(transfer, () => world.puts.length === 5);
    transfer.pause();
    assert.equal(transfer.state, "paused");
    leave();
    await settle();
    assert.deepEqual([...world.sessions[0].parts.keys()], [1, 2]);
    assert.deepEqual([world.asked, world.puts], [[], []]);
    transfer.resume();
    await until(transfer);
    assert.equal(transfer.state, "ready");
    assert.equal(world.asked[0], "GET s1");
    assert.deepEqual(sentParts(), [3, 4, 5]);
  });

  /** An upload whose page goes away when two parts are there. */
  const cutOff = async (strategy, layout, file) => {
    world = new World(strategy, layout);
    world.faults = [3, 4, 5].map((number) => ({ on: "PUT", number, status: 200 }));
    const transfer = begin(strategy, layout, file);
    world.faults.push({ on: "complete", status: 409, code: "upload_incomplete" });
    world.faults.push({ on: "GET", status: 0 });
    await until(transfer, () => calls("GET s1") === 1);
    transfer.abort.abort();
    leave();
  };

  test("another page sends only what is missing, and says so", async () => {
    await cutOff("multipart", part);
    await until(begin());
    assert.equal(transfers[1].state, "ready");
    assert.deepEqual(sentParts(), [3, 4, 5]);
    assert.equal(calls("POST"), 0);
    assert.ok(seen.some(([state, message]) => state === "sending" && message === messages.pickedUp));
    assert.equal(seen.find(([name]) => name === "progress")[1], 8);
    assert.deepEqual(whole(world.sessions[0]), [...bytes]);
    assert.deepEqual(Object.keys(store), []);
  });

  for (const [how, change] of [
    ["unknown", (session) => { session.id = "gone"; }],
    ["closed", (session) => { session.lost = true; }],
    ["aborted", (session) => { session.state = "aborted"; }],
    ["another file's", (session) => { session.size += 1; }],
  ]) {
    test(`a remembered session that is ${how} gives way to a new one`, async () => {
      await cutOff("multipart", part);
      change(world.sessions[0]);
      await until(begin());
      assert.equal(transfers[1].state, "ready");
      assert.deepEqual([calls("POST"), calls("DELETE s1")], [1, 0]);
      assert.deepEqual(sentParts(), [1, 2, 3, 4, 5]);
      assert.deepEqual(Object.keys(store), []);
    });
  }

  test("one that is gone is forgotten even when no other can be opened", async () => {
    await cutOff("multipart", part);
    world.sessions[0].lost = true;
    world.faults = [{ on: "POST", status: 422, code: "too_large" }];
    await until(begin());
    assert.equal(transfers[1].problem.code, "too_large");
    assert.deepEqual(Object.keys(store), []);
  });

  test("a ticket that is too old is no reason to forget", async () => {
    await cutOff("multipart", part);
    world.faults = [{ on: "GET", status: 403, code: "ticket_expired" }];
    await until(begin());
    assert.equal(transfers[1].problem.code, "ticket_expired");
    leave();
    world.faults = [{ on: "parts", status: 403, code: "ticket_expired" }];
    await until(begin());
    assert.equal(transfers[2].problem.code, "ticket_expired");
    leave();
    await until(begin());
    assert.deepEqual(sentParts(), [3, 4, 5]);
  });

  test("a completed one is not sent again", async () => {
    await cutOff("multipart", part);
    world.sessions[0].state = "completed";
    world.sessions[0].parts = new Map([1, 2, 3, 4, 5].map((number) => [number, bytes.slice(...partRange(number, 4, 18))]));
    await until(begin());
    assert.equal(transfers[1].state, "ready");
    assert.deepEqual(world.puts, []);
  });

  test("cancelling forgets it", async () => {
    world = new World("multipart", part);
    world.patience = 0;
    const transfer = begin();
    await until(transfer, () => world.puts.length === 3);
    assert.equal(Object.keys(store).length, 1);
    await transfer.cancel();
    assert.equal(world.sessions[0].state, "aborted");
    assert.deepEqual(Object.keys(store), []);
    assert.equal(world.puts.length, 3);
  });

  test("being offline costs no try", async () => {
    const network = globalThis.navigator;
    const events = new EventTarget();
    Object.defineProperty(globalThis, "navigator", { value: { onLine: false }, configurable: true });
    globalThis.addEventListener = events.addEventListener.bind(events);
    globalThis.removeEventListener = events.removeEventListener.bind(events);
    world = new World("multipart", part);
    world.faults = Array.from({ length: 12 }, () => ({ on: "PUT", status: 0 }));
    const transfer = begin();
    for (let turn = 0; turn < 12; turn += 1) {
      await settle();
      if (world.faults.length) assert.equal(transfer.message, messages.offline);
      events.dispatchEvent(new Event("online"));
    }
    await until(transfer);
    assert.equal(transfer.state, "ready");
    Object.defineProperty(globalThis, "navigator", { value: network, configurable: true });
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });

  describe("at a storage that can resume", () => {
    const chunks = { chunk_bytes: GRANULE };
    const size = 40 * MB + 5;
    const long = () => film(size);
    const ranges = () => world.puts.map((put) => put.range.replace(/bytes (\d+)-(\d+).*/, "$1 $2").split(" ").map(Number));

    test("goes piece by piece, and asks nobody in between", async () => {
      await until(begin("resumable", chunks, long()));
      assert.equal(transfers[0].state, "ready");
      assert.deepEqual(ranges(), [[0, 16 * MB - 1], [16 * MB, 32 * MB - 1], [32 * MB, size - 1]]);
      assert.deepEqual(world.asked, ["POST", "POST s1/complete"]);
      assert.deepEqual(Object.keys(store), []);
    });

    test("asks the server where CORS hides the Range", async () => {
      world = new World("resumable", chunks);
      world.showsRange = false;
      await until(begin("resumable", chunks, long()));
      assert.equal(transfers[0].state, "ready");
      assert.equal(world.sessions[0].bytes, size);
      assert.equal(calls("GET s1"), 2);
      assert.ok(seen.every(([state]) => state !== "waiting"));
    });

    test("after a break it goes on where the storage is", async () => {
      world = new World("resumable", chunks);
      const half = (session) => { session.bytes = 3 * MB; };
      world.faults = [{ on: "PUT", status: 0, effect: half }];
      await until(begin("resumable", chunks, long()));
      assert.equal(transfers[0].state, "ready");
      assert.deepEqual(ranges().slice(0, 2), [[0, 16 * MB - 1], [3 * MB, 19 * MB - 1]]);
      assert.equal(calls("GET s1"), 1);
    });

    test("a storage that takes nothing is not asked for ever", async () => {
      world = new World("resumable", chunks);
      world.faults = Array.from({ length: 99 }, () => ({ on: "PUT", status: 308 }));
      await until(begin("resumable", chunks, long()));
      assert.equal(transfers[0].state, "error");
      assert.equal(world.puts.length, 4);
    });

    for (const status of [404, 410]) {
      test(`an answer of ${status} begins anew, once`, async () => {
        world = new World("resumable", chunks);
        world.faults = [{ on: "PUT", status }];
        await until(begin("resumable", chunks, long()));
        assert.equal(transfers[0].state, "ready");
        assert.equal(world.sessions[1].bytes, size);
        assert.equal(calls("DELETE s1"), 1);
      });
    }

    test("another page goes on where the first was cut off", async () => {
      world = new World("resumable", chunks);
      world.patience = 1;
      const first = begin("resumable", chunks, long());
      await until(first, () => world.puts.length === 2);
      first.abort.abort();
      leave();
      await until(begin("resumable", chunks, long()));
      assert.equal(transfers[1].state, "ready");
      assert.equal(world.asked[0], "GET s1");
      assert.deepEqual(ranges(), [[16 * MB, 32 * MB - 1], [32 * MB, size - 1]]);
      assert.ok(seen.some(([, message]) => message === messages.pickedUp));
    });

    test("resuming after a pause asks first", async () => {
      world = new World("resumable", chunks);
      world.patience = 1;
      const transfer = begin("resumable", chunks, long());
      await until(transfer, () => world.puts.length === 2);
      transfer.pause();
      leave();
      transfer.resume();
      await until(transfer);
      assert.equal(world.asked[0], "GET s1");
      assert.equal(ranges()[0][0], 16 * MB);
    });

    test("no secret is written down", async () => {
      world = new World("resumable", chunks);
      world.patience = 0;
      await until(begin("resumable", chunks, long()), () => world.puts.length === 1);
      assert.match(Object.values(store).join(""), /s1/);
      assert.doesNotMatch(JSON.stringify(store), /storage/);
    });
  });

  describe("in one PUT", () => {
    test("412 says that the bytes are there", async () => {
      world = new World("presigned_put", {});
      world.faults = [{ on: "PUT", status: 412 }];
      await until(begin("presigned_put"));
      assert.equal(transfers[0].state, "ready");
      assert.equal(calls("POST s1/complete"), 1);
    });

    test("a URL is used once, and nothing is remembered", async () => {
      world = new World("presigned_put", {});
      world.faults = [{ on: "PUT", status: 0 }, { on: "PUT", status: 403 }];
      const transfer = begin("presigned_put");
      await until(transfer, () => world.puts.length === 1);
      assert.deepEqual(Object.keys(store), []);
      await until(transfer);
      assert.equal(transfer.state, "ready");
      assert.equal(new Set(world.puts.map((put) => put.url)).size, 3);
    });
  });
});
