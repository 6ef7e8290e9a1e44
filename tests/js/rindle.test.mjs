// The part of rindle.js that needs no DOM: node --test tests/js/
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

const source = await readFile(new URL("../../flask_rindle/static/rindle/rindle.js", import.meta.url));
const rindle = await import(`data:text/javascript;base64,${source.toString("base64")}`);
const { Problem, Queue, Watcher, backoff, checkFile, checkType, fill, formatBytes, messages } = rindle;
const { parseProblem, parseRetryAfter, persist, picturePlan } = rindle;

const MB = 1024 * 1024;
const file = (name, type, size = 10) => ({ name, type, size });
const settle = async () => {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
};

describe("words", () => {
  test("holes are filled and unknown ones stay", () => assert.equal(fill("{a} of {b}", { a: 0 }), "0 of {b}"));

  for (const [count, text] of [
    [0, "0 bytes"], [1023, "1023 bytes"], [1024, "1 KB"], [1536, "1.5 KB"], [8 * MB, "8 MB"], [3481022, "3.3 MB"],
    [2 * 1024 * MB, "2 GB"], [5 * 1024 ** 4, "5 TB"],
  ]) {
    test(`${count} bytes`, () => assert.equal(formatBytes(count), text));
  }
});

describe("checks", () => {
  test("no limits, no complaint", () => assert.equal(checkFile(file("a.exe", "")), null));

  test("an empty file", () => assert.equal(checkFile(file("a.png", "image/png", 0)).code, "empty_upload"));

  test("a file of exactly the limit passes", () => assert.equal(checkFile(file("a", "", MB), { maxBytes: MB }), null));

  test("a file beyond the limit, in the server's words", () => {
    assert.deepEqual(checkFile(file("a", "", 8 * MB + 1), { maxBytes: 8 * MB }), {
      code: "too_large",
      detail: "The file is too large. Send one of at most 8 MB.",
    });
  });

  test("a missing data-max-bytes is no limit", () => assert.equal(checkFile(file("a", "", MB), { maxBytes: NaN }), null));

  test("a type that is not listed, in the server's words", () => {
    assert.deepEqual(checkType(file("a.gif", "image/gif"), "image/png,image/jpeg"), {
      code: "type_refused",
      detail: "Files of type image/gif are not accepted here. Send JPEG, PNG.",
    });
  });

  test("an extension that is not listed, in the server's words", () => {
    assert.deepEqual(checkType(file("NOTES", "text/plain"), ".pdf, .DOC"), {
      code: "extension_refused",
      detail: "Files named without an extension are not accepted here. Send .doc, .pdf.",
    });
  });

  test("either a type or an extension lets a file in", () => {
    assert.equal(checkType(file("a.HEIC", ""), "image/png,.heic"), null);
    assert.equal(checkType(file("a.bin", "image/png"), "image/png,.heic"), null);
  });

  test("wildcards", () => {
    assert.equal(checkType(file("a.png", "image/png"), "image/*"), null);
    assert.equal(checkType(file("a.mp4", "video/mp4"), "image/*").code, "type_refused");
    assert.equal(checkType(file("a.mp4", "video/mp4"), "*/*"), null);
  });

  test("a type that the browser does not know is for the server", () => {
    assert.equal(checkType(file("a.heic", ""), "image/heic"), null);
  });
});

describe("problems", () => {
  test("problem+json speaks for itself", () => {
    const body = JSON.stringify({ status: 409, code: "ticket_used", detail: "Used." });
    const problem = parseProblem(409, "application/problem+json; charset=utf-8", body);
    assert.deepEqual([problem.status, problem.code, problem.detail, problem.transient], [409, "ticket_used", "Used.", false]);
  });

  test("a proxy's HTML is never shown", () => {
    assert.equal(parseProblem(502, "text/html", "<h1>Bad</h1>").detail, messages.rindle_error);
    assert.equal(parseProblem(413, "text/html", "<h1>nginx</h1>").code, "too_large");
    assert.equal(parseProblem(400, "application/json", "{broken").code, "rejected_upload");
    assert.equal(parseProblem(400, "application/json", "null").detail, messages.refused);
  });

  test("5xx and being asked to wait are worth another try, other 4xx are not", () => {
    for (const status of [408, 429, 500, 502, 503, 507]) assert.equal(parseProblem(status, null, "").transient, true);
    for (const status of [400, 403, 404, 409, 413, 422]) assert.equal(parseProblem(status, null, "").transient, false);
  });

  test("Retry-After in seconds and as a date", () => {
    const now = Date.UTC(2026, 0, 1);
    assert.equal(parseRetryAfter("3"), 3000);
    assert.equal(parseRetryAfter(new Date(now + 5000).toUTCString(), now), 5000);
    assert.equal(parseRetryAfter(new Date(now - 5000).toUTCString(), now), 0);
    assert.equal(parseRetryAfter("soon"), null);
    assert.equal(parseRetryAfter(null), null);
    assert.equal(parseProblem(503, null, "", "2").retryAfter, 2000);
  });
});

describe("pictures", () => {
  const picture = {
    sources: [{ type: "image/webp", srcset: "a.webp 640w", sizes: "100vw", media: null }],
    img: { src: "a.jpg", srcset: null, sizes: null, width: 640, height: 480, alt: "A beach" },
  };

  test("only attributes that say something, and src last", () => {
    const plan = picturePlan(picture);
    assert.deepEqual(plan.sources, [[["type", "image/webp"], ["sizes", "100vw"], ["srcset", "a.webp 640w"]]]);
    assert.deepEqual(plan.img, [["alt", "A beach"], ["width", "640"], ["height", "480"], ["decoding", "async"], ["src", "a.jpg"]]);
  });

  test("what the page says itself wins", () => {
    const img = Object.fromEntries(picturePlan(picture, { alt: "Me", class: "round" }).img);
    assert.deepEqual([img.alt, img.class], ["Me", "round"]);
  });

  test("alt is always there, event handlers never", () => {
    const plan = picturePlan({ img: { src: "a", onerror: "alert(1)" } });
    assert.deepEqual(plan.img, [["alt", ""], ["decoding", "async"], ["src", "a"]]);
    assert.deepEqual(plan.sources, []);
  });
});

describe("patience", () => {
  beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"] }));
  afterEach(() => mock.timers.reset());

  const failing = (times, problem) => mock.fn(async () => {
    if (times-- > 0) throw problem;
    return "done";
  });
  const busy = (retryAfter = null) => new Problem({ status: 503, code: "busy", detail: "", retryAfter });
  const calm = { random: () => 0.5 };

  test("back-off doubles, has a ceiling and honours the server", () => {
    assert.deepEqual([1, 2, 3, 9].map((n) => backoff(n, null, () => 0.5)), [1000, 2000, 4000, 10000]);
    assert.equal(backoff(1, 7000, () => 0.5), 7000);
    assert.equal(backoff(3, 1000, () => 0.5), 4000);
    assert.equal(backoff(1, null, () => 0), 750);
  });

  test("a transient failure is tried again", async () => {
    const step = failing(2, busy(5000));
    const waits = [];
    const result = persist(step, { signal: new AbortController().signal, onWait: (why, ms) => waits.push([why, ms]), ...calm });
    for (let turn = 0; turn < 2; turn += 1) {
      await settle();
      mock.timers.tick(5000);
    }
    assert.equal(await result, "done");
    assert.deepEqual(waits, [["retrying", 5000], ["retrying", 5000]]);
  });

  test("four failures are enough", async () => {
    const step = failing(9, busy());
    const result = persist(step, { signal: new AbortController().signal, ...calm });
    const outcome = assert.rejects(result, { code: "busy" });
    for (let turn = 0; turn < 4; turn += 1) {
      await settle();
      mock.timers.tick(10_000);
    }
    await outcome;
    assert.equal(step.mock.callCount(), 4);
  });

  test("a refusal is final at once", async () => {
    const step = failing(1, new Problem({ status: 422, code: "no", detail: "" }));
    await assert.rejects(persist(step, { signal: new AbortController().signal }), { code: "no" });
    assert.equal(step.mock.callCount(), 1);
  });

  test("nobody waits an hour in front of a form", async () => {
    await assert.rejects(persist(failing(1, busy(3_600_000)), { signal: new AbortController().signal }), { code: "busy" });
  });

  test("aborting ends the waiting", async () => {
    const abort = new AbortController();
    const step = failing(9, busy());
    const result = persist(step, { signal: abort.signal, ...calm });
    await settle();
    abort.abort();
    await assert.rejects(result, { name: "AbortError" });
    mock.timers.tick(60_000);
    assert.equal(step.mock.callCount(), 1);
  });
});

describe("the queue", () => {
  test("two at a time, in order, whatever becomes of one", async () => {
    const queue = new Queue(2);
    const open = [];
    const begun = [];
    for (const name of "abcd") {
      queue.add(() => new Promise((done) => {
        begun.push(name);
        open.push(done);
      }));
    }
    assert.deepEqual(begun, ["a", "b"]);
    open[1]();
    await settle();
    assert.deepEqual(begun, ["a", "b", "c"]);
    open[0]();
    await settle();
    assert.deepEqual(begun, ["a", "b", "c", "d"]);
  });
});

describe("the watcher", () => {
  let answers, asked, states, failures, streams;

  class FakeEventSource extends EventTarget {
    static CLOSED = 2;
    readyState = 0;

    constructor(url) {
      super();
      this.url = url;
      streams.push(this);
    }

    close() {
      this.readyState = 2;
    }

    fire(name, readyState = this.readyState) {
      this.readyState = readyState;
      this.dispatchEvent(new Event(name));
    }
  }

  const pending = { state: "processing", settled: false };
  const ready = { state: "ready", settled: true };
  const watcher = (more = {}) => new Watcher({
    stateUrl: "/state",
    eventsUrl: "/events",
    onState: (state) => states.push(state.state),
    onFailure: (problem) => failures.push(problem.code),
    ...more,
  });
  const pass = async (ms) => {
    mock.timers.tick(ms);
    await settle();
  };

  beforeEach(() => {
    mock.timers.enable({ apis: ["setTimeout", "Date"] });
    [answers, asked, states, failures, streams] = [[], 0, [], [], []];
    globalThis.EventSource = FakeEventSource;
    mock.method(globalThis, "fetch", async () => {
      asked += 1;
      const answer = answers.shift() ?? pending;
      if (answer instanceof Error) throw answer;
      return answer instanceof Response ? answer : Response.json(answer);
    });
  });
  afterEach(() => {
    mock.timers.reset();
    mock.restoreAll();
    delete globalThis.EventSource;
  });

  test("asks when the stream opens, after a change, and stops when settled", async () => {
    answers = [pending, ready];
    watcher().start();
    streams[0].fire("open", 1);
    await pass(0);
    assert.deepEqual(states, ["processing"]);
    streams[0].fire("change");
    streams[0].fire("change");
    await pass(149);
    assert.equal(asked, 1);
    await pass(1);
    assert.deepEqual(states, ["processing", "ready"]);
    assert.equal(streams[0].readyState, 2);
    await pass(600_000);
    assert.equal(asked, 2);
  });

  test("a stream that ends and reconnects is no failure", async () => {
    watcher().start();
    for (let turn = 0; turn < 10; turn += 1) {
      streams[0].fire("open", 1);
      streams[0].fire("error", 0);
    }
    await pass(0);
    assert.equal(asked, 1);
    assert.notEqual(streams[0].readyState, 2);
  });

  test("a stream that stays silent has a safety net", async () => {
    watcher().start();
    streams[0].fire("open", 1);
    await pass(0);
    await pass(29_999);
    assert.equal(asked, 1);
    await pass(1);
    assert.equal(asked, 2);
  });

  test("a stream that never opens does not hold up the polling", async () => {
    watcher().start();
    const seconds = [];
    for (let second = 1; second <= 27; second += 1) {
      const before = asked;
      await pass(1000);
      if (asked > before) seconds.push(second);
    }
    assert.deepEqual(seconds, [1, 2, 4, 8, 16, 26]);
  });

  test("a refused stream and a thrice broken one are given up", async () => {
    watcher().start();
    streams[0].fire("error", 2);
    await pass(0);
    assert.equal(asked, 1);

    watcher().start();
    for (let turn = 0; turn < 3; turn += 1) streams[1].fire("error", 0);
    assert.equal(streams[1].readyState, 2);
  });

  test("no EventSource, no stream", async () => {
    delete globalThis.EventSource;
    answers = [pending, ready];
    watcher().start();
    await pass(0);
    await pass(1000);
    assert.deepEqual(states, ["processing", "ready"]);
  });

  test("trouble of the server is waited out, a refusal ends it", async () => {
    answers = [new TypeError("offline"), new Response("", { status: 503 }), Response.json({ code: "expired_token" }, { status: 403 })];
    watcher({ eventsUrl: null }).start();
    await pass(0);
    await pass(1000);
    assert.deepEqual(failures, []);
    await pass(2000);
    assert.deepEqual(failures, ["expired_token"]);
    await pass(600_000);
    assert.equal(asked, 3);
  });

  test("a change during a question asks again", async () => {
    const held = [];
    fetch.mock.mockImplementation(() => {
      asked += 1;
      return new Promise((resolve) => held.push(() => resolve(Response.json(pending))));
    });
    watcher().start();
    streams[0].fire("open", 1);
    await pass(0);
    streams[0].fire("change");
    await pass(150);
    assert.equal(asked, 1);
    held[0]();
    await settle();
    await new Promise((done) => setImmediate(done));
    await pass(150);
    assert.equal(asked, 2);
  });

  test("a hidden page holds no stream, a shown one opens it again, a stopped one stays closed", async () => {
    const page = new EventTarget();
    globalThis.addEventListener = page.addEventListener.bind(page);
    const watching = watcher().start();
    page.dispatchEvent(new Event("pagehide"));
    assert.equal(streams[0].readyState, 2);
    page.dispatchEvent(new Event("pageshow"));
    page.dispatchEvent(new Event("pageshow"));
    assert.equal(streams.length, 2);
    watching.stop();
    page.dispatchEvent(new Event("pageshow"));
    assert.equal(streams.length, 2);
    delete globalThis.addEventListener;
  });
});
