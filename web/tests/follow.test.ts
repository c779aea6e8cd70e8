import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Answer } from "../src/answer.ts";
import { ApiError, ConnectionLost } from "../src/api.ts";
import { follow, type Link, type Open } from "../src/follow.ts";
import { eventsOf, FastClock, stream } from "./server.ts";

const TEXT = "Hé 😀 llo";
const EVENTS = eventsOf("resp_1", TEXT);

async function run(open: Open, clock = new FastClock(), signal = new AbortController().signal) {
  const answer = new Answer();
  const links: Link[] = [];
  const texts: string[] = [];
  const listener = {
    onAnswer: () => void texts.push(answer.text),
    onLink: (link: Link) => void (links.at(-1) === link || links.push(link)),
  };
  await follow(answer, open, listener, signal, clock);
  return { answer, links, texts, clock };
}

test("an answer is heard to its end", async () => {
  const { answer, links, texts } = await run(async () => stream([...EVENTS, "[DONE]"]));
  assert.equal(answer.text, TEXT);
  assert.equal(answer.id, "resp_1");
  assert.equal(answer.status, "completed");
  assert.deepEqual(links, ["live"]);
  assert.ok(texts.every((text) => TEXT.startsWith(text)));
  assert.ok(answer.tokensPerSecond! > 0);
});

test("it goes on where a connection broke, after every event", async () => {
  for (let cut = 0; cut < EVENTS.length; cut++) {
    const asked: number[] = [];
    const { answer, links, texts } = await run(async ({ last }) => {
      asked.push(last);
      if (asked.length === 1) return stream(EVENTS.slice(0, cut), { breaks: cut % 2 === 0 });
      return stream(EVENTS.slice(last + 1));
    });
    assert.deepEqual(asked, [-1, cut - 1]);
    assert.deepEqual(links, ["live", "lost", "live"]);
    assert.equal(answer.text, TEXT);
    assert.ok(texts.every((text) => TEXT.startsWith(text)));
    assert.equal(answer.tokensPerSecond, null); // what was missed cannot be timed
  }
});

test("events that come twice are taken once", async () => {
  let isFirst = true;
  const { answer, texts } = await run(async () => {
    const events = isFirst ? EVENTS.slice(0, 5) : EVENTS;
    isFirst = false;
    return stream(events);
  });
  assert.equal(answer.text, TEXT);
  assert.equal(texts.length, EVENTS.length);
});

test("an error event ends a connection, not the answer", async () => {
  const broken = JSON.stringify({ type: "error", sequence_number: 2, error: { message: "disk" } });
  let isFirst = true;
  const { answer } = await run(async ({ last }) => {
    const events = isFirst ? [...EVENTS.slice(0, 3), broken] : EVENTS.slice(last + 1);
    isFirst = false;
    return stream(events);
  });
  assert.equal(answer.text, TEXT);
});

test("waits grow while the server is away, and begin anew when it has said something", async () => {
  const clock = new FastClock();
  let attempt = 0;
  await run(async ({ last }) => {
    attempt += 1;
    if (attempt <= 7) throw new ConnectionLost();
    if (attempt === 8) return stream(EVENTS.slice(last + 1, last + 3));
    return stream(EVENTS.slice(last + 1));
  }, clock);
  assert.deepEqual(clock.pauses, [250, 500, 1000, 2000, 4000, 5000, 5000, 250]);
});

test("a server that is not ready is waited for, and called so", async () => {
  let attempt = 0;
  const { answer, links } = await run(async () => {
    attempt += 1;
    if (attempt === 1) throw new ApiError("bad gateway", 502);
    if (attempt === 2) throw new ApiError("loading", 503);
    return stream(EVENTS);
  });
  assert.deepEqual(links, ["lost", "loading", "live"]);
  assert.equal(answer.text, TEXT);
});

test("a connection that is silent for 40 s is given up", async () => {
  mock.timers.enable({ apis: ["setInterval"] });
  const clock = new FastClock();
  let isFirst = true;
  const { answer, links } = await run(async ({ last }, signal) => {
    if (!isFirst) return stream(EVENTS.slice(last + 1));
    isFirst = false;
    const pieces = new TransformStream<Uint8Array>();
    const writer = pieces.writable.getWriter();
    signal.addEventListener("abort", () => void writer.abort(signal.reason));
    void writer.write(new TextEncoder().encode(`data: ${EVENTS[0]}\n\n`)).then(() => {
      mock.timers.tick(2_000); // heard of a moment ago
      assert.ok(!signal.aborted);
      clock.sleep(41_000);
      mock.timers.tick(2_000);
    });
    return new Response(pieces.readable);
  }, clock);
  mock.timers.reset();
  assert.equal(answer.text, TEXT);
  assert.deepEqual(links, ["live", "lost", "live"]);
});

test("a refusal is final", async () => {
  const refusal = new ApiError("max_output_tokens must be >= 1.", 400, "max_output_tokens");
  await assert.rejects(run(() => Promise.reject(refusal)), refusal);
});

test("a bug is not taken for a lost connection", async () => {
  await assert.rejects(run(async () => stream(["not JSON"])), SyntaxError);
});

test("whoever turns away is not waited for", async () => {
  const leaving = new AbortController();
  const open: Open = (_, signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      leaving.abort();
    });
  await assert.rejects(run(open, new FastClock(), leaving.signal), { name: "AbortError" });
});

test("the end's text is the last word", () => {
  const answer = new Answer("resp_1");
  const end = JSON.parse(EVENTS.at(-1)!);
  answer.apply(end, 0);
  assert.equal(answer.text, TEXT);
});

test("a cancelled answer keeps what it said", async () => {
  const { answer } = await run(async () => stream(eventsOf("resp_1", "half", "cancelled")));
  assert.equal(answer.status, "cancelled");
  assert.equal(answer.text, "half");
});
