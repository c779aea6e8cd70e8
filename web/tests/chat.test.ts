import assert from "node:assert/strict";
import { test } from "node:test";
import { Api } from "../src/api.ts";
import { Chat, Refused } from "../src/chat.ts";
import { DEFAULTS } from "../src/request.ts";
import type { Pending } from "../src/storage.ts";
import { eventsOf, FastClock, stream } from "./server.ts";

type Handler = (body: string | undefined) => unknown; // an object is JSON

/** A chat on a server of handlers, by method and path. `asked` is every request, in order. */
function chatOn(handlers: Record<string, Handler>, pending: Record<string, Pending | null> = {}) {
  const asked: string[] = [];
  globalThis.fetch = async (url, options) => {
    const path = String(url).split("?order", 1)[0];
    const line = `${options?.method ?? "GET"} ${path}`;
    asked.push(line);
    const handler = handlers[line];
    assert.ok(handler, `nobody expected ${line}`);
    const answer = handler(options?.body as string | undefined);
    return answer instanceof Response ? answer : Response.json(answer);
  };
  const kept = {
    pending: (id: string) => pending[id] ?? null,
    setPending: (id: string, value: Pending | null) => void (pending[id] = value),
  };
  const ignore = () => {};
  const listener = {
    onMessages: ignore,
    onAnswer: ignore,
    onLink: ignore,
    onConversation: ignore,
  };
  const api = new Api("", null, async () => null);
  return { chat: new Chat(api, kept, listener, new FastClock()), asked, pending };
}

const CONVERSATION = { id: "conv_1", created_at: 1, metadata: { title: "t" } };
const NAMED = { ...CONVERSATION, metadata: { title: "t", response: "resp_1" } };
const message = (id: string, role: string, text: string) => ({
  ...{ id, role, status: "completed" },
  content: [{ text }],
});
const page = (data: object[]) => ({ data, has_more: false, last_id: null });
const refusal = (status: number, message: string) => () =>
  Response.json({ error: { message } }, { status });

test("a message begins a conversation, and its answer is named there", async () => {
  const { chat, asked, pending } = chatOn({
    "POST v1/conversations": () => CONVERSATION,
    "POST v1/responses": () => stream(eventsOf("resp_1", "hello")),
    "POST v1/conversations/conv_1": (body) => {
      assert.deepEqual(JSON.parse(body!), { metadata: NAMED.metadata });
      return NAMED;
    },
  });
  await chat.send("hi", DEFAULTS, "demo");
  assert.deepEqual(
    chat.messages.map(({ role, text }) => [role, text]),
    [
      ["user", "hi"],
      ["assistant", "hello"],
    ],
  );
  assert.equal(asked.length, 3);
  await new Promise(setImmediate);
  assert.equal(pending["conv_1"], null);
  assert.ok(!chat.isBusy);
});

test("a refused message is given back, and leaves nothing", async () => {
  const { chat, pending } = chatOn({
    "POST v1/conversations": () => CONVERSATION,
    "POST v1/responses": refusal(400, "too long"),
  });
  await assert.rejects(chat.send("hi", DEFAULTS, "demo"), (error: Refused) => {
    assert.equal(error.text, "hi");
    assert.equal((error.cause as Error).message, "too long");
    return true;
  });
  assert.deepEqual(chat.messages, []);
  assert.equal(pending["conv_1"], null);
  assert.ok(!chat.isBusy);
});

test("a failed answer gives its message back", async () => {
  const { chat } = chatOn({
    "POST v1/conversations": () => CONVERSATION,
    "POST v1/responses": () => stream(eventsOf("resp_1", "hel", "failed")),
    "POST v1/conversations/conv_1": () => NAMED,
  });
  await assert.rejects(chat.send("hi", DEFAULTS, "demo"), { text: "hi" });
  assert.deepEqual(chat.messages, []);
});

test("a request whose answer nobody named is sent again under its key", async () => {
  const sent = { key: "k", body: '{"seed":18446744073709551615}', sentMs: Date.now() };
  const { chat, asked, pending } = chatOn(
    {
      "GET v1/conversations/conv_1": () => CONVERSATION,
      "POST v1/responses": (body) => {
        assert.equal(body, '{"seed":18446744073709551615,"stream":false}');
        return { id: "resp_1", status: "in_progress" };
      },
      "POST v1/conversations/conv_1": () => NAMED,
      "GET v1/responses/resp_1": () => ({ id: "resp_1", status: "in_progress" }),
      "GET v1/conversations/conv_1/items": () => page([]),
      "GET v1/responses/resp_1/input_items": () => page([message("msg_0", "user", "hi")]),
      "GET v1/responses/resp_1?stream=true": () => stream(eventsOf("resp_1", "hello")),
    },
    { conv_1: sent },
  );
  await chat.open("conv_1", () => {});
  assert.deepEqual(
    chat.messages.map(({ text }) => text),
    ["hi", "hello"],
  );
  assert.equal(pending["conv_1"], null);
  assert.equal(asked.filter((line) => line === "POST v1/responses").length, 1);
});

test("an answer that has ended is not followed", async () => {
  const { chat } = chatOn({
    "GET v1/conversations/conv_1": () => NAMED,
    "GET v1/responses/resp_1": () => ({ id: "resp_1", status: "completed" }),
    "GET v1/conversations/conv_1/items": () =>
      page([message("msg_0", "user", "hi"), message("msg_1", "assistant", "hello")]),
  });
  await chat.open("conv_1", () => {});
  assert.deepEqual(
    chat.messages.map(({ text }) => text),
    ["hi", "hello"],
  );
});

test("a conversation whose last response is no longer kept can be read", async () => {
  const { chat } = chatOn({
    "GET v1/conversations/conv_1": () => NAMED,
    "GET v1/responses/resp_1": refusal(404, "not found"),
    "GET v1/conversations/conv_1/items": () => page([message("msg_0", "user", "hi")]),
  });
  await chat.open("conv_1", () => {});
  assert.equal(chat.messages.length, 1);
});

test("messages are taken back from the last, so that what is left hangs together", async () => {
  const items = ["a", "b", "c", "d"].map((text, k) =>
    message(`msg_${text}`, k % 2 ? "assistant" : "user", text),
  );
  const deleted: string[] = [];
  const { chat, asked } = chatOn({
    "GET v1/conversations/conv_1": () => CONVERSATION,
    "GET v1/conversations/conv_1/items": () => page(items),
    "DELETE v1/conversations/conv_1/items/msg_d": () => deleted.push("d"),
    "DELETE v1/conversations/conv_1/items/msg_c": () => deleted.push("c"),
    "POST v1/responses": () => stream(eventsOf("resp_1", "new")),
    "POST v1/conversations/conv_1": () => NAMED,
  });
  await chat.open("conv_1", () => {});
  await chat.edit(2, "C", DEFAULTS, "demo");
  assert.deepEqual(deleted, ["d", "c"]);
  assert.deepEqual(
    chat.messages.map(({ text }) => text),
    ["a", "b", "C", "new"],
  );
  assert.equal(asked.at(-2), "POST v1/responses");
});

test("a setting that is refused takes nothing back", async () => {
  const { chat, asked } = chatOn({
    "GET v1/conversations/conv_1": () => CONVERSATION,
    "GET v1/conversations/conv_1/items": () => page([message("msg_0", "user", "hi")]),
  });
  await chat.open("conv_1", () => {});
  const settings = { ...DEFAULTS, temperature: "warm" };
  await assert.rejects(chat.edit(0, "hello", settings, "demo"), { param: "temperature" });
  await assert.rejects(chat.regenerate(settings, "demo"), { param: "temperature" });
  assert.equal(asked.length, 2);
});
