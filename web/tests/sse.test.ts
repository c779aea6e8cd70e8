import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionLost } from "../src/api.ts";
import { EventParser, readEvents } from "../src/sse.ts";

const WIRE = 'event: a\ndata: {"x":1}\n\n: ping\n\ndata: é😀\r\ndata: two\r\n\r\ndata: [DONE]\n\n';
const EVENTS = ['{"x":1}', "é😀\ntwo", "[DONE]"];

test("events are the same wherever the text is cut", () => {
  for (let cut = 0; cut <= WIRE.length; cut++) {
    const parser = new EventParser();
    assert.deepEqual([...parser.push(WIRE.slice(0, cut)), ...parser.push(WIRE.slice(cut))], EVENTS);
  }
});

test("an event that was cut off is not an event", () => {
  assert.deepEqual(new EventParser().push("data: half"), []);
  assert.deepEqual(new EventParser().push("data: half\n"), []);
});

test("characters may be cut in their bytes", async () => {
  const bytes = new TextEncoder().encode(WIRE);
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const events: string[] = [];
  let numPieces = 0;
  for await (const event of readEvents(body, () => numPieces++)) events.push(event);
  assert.deepEqual(events, EVENTS);
  assert.equal(numPieces, bytes.length);
});

test("a body that breaks is a lost connection", async () => {
  const body = new ReadableStream<Uint8Array>({ pull: (c) => c.error(new TypeError("network")) });
  await assert.rejects(async () => {
    for await (const _ of readEvents(body, () => {}));
  }, ConnectionLost);
});
