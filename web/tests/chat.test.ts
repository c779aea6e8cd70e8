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
    const path = String(url).split("?order", 1)[0]!;
    const line = `${options?.method ?? "GET"} ${path}`;
    asked.push(line);
    const handler = handlers[line];
    assert.ok(handler, `nobody expected ${line}`);
    const answer = await handler(options?.body as string | undefined);
    options?.signal?.throwIfAborted();
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
    onShared: ignore,
  };
  const api = new Api("", null, async () => null);
  return { chat: new Chat(api, kept, listener, new FastClock()), asked, pending };
}

const CONVERSATION = { id: "conv_1", created_at: 1, metadata: { title: "t" } };
const NAMED = { ...CONVERSATION, metadata: { title: "t", response: "resp_1" } };
const ITEMS = "GET v1/conversations/conv_1/items";
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
    [ITEMS]: () => page([message("msg_0", "user", "hi"), message("msg_1", "assistant", "hello")]),
  });
  await chat.send("hi", DEFAULTS, "demo");
  assert.deepEqual(
    chat.messages.map(({ role, text }) => [role, text]),
    [
      ["user", "hi"],
      ["assistant", "hello"],
    ],
  );
  assert.deepEqual(
    chat.messages.map(({ id }) => id),
    ["msg_0", "msg_1"],
  );
  assert.equal(asked.length, 4);
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
  const said = [message("msg_0", "user", "hi"), message("msg_1", "assistant", "hello")];
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
      [ITEMS]: () => page(asked.length < 5 ? [] : said),
      "GET v1/responses/resp_1/input_items": () => page(said.slice(0, 1)),
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
    [ITEMS]: () =>
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
    [ITEMS]: () => page([message("msg_0", "user", "hi")]),
  });
  await chat.open("conv_1", () => {});
  assert.equal(chat.messages.length, 1);
});

const said = (texts: string[]) =>
  texts.map((text, k) => message(`msg_${text}`, k % 2 ? "assistant" : "user", text));

/** A server that answers "new", as response `id`, to what is put behind `after`. */
function branching(after: string, question: string | null, id: string) {
  const items: object[] = said(["a", "b", "c", "d"]);
  return {
    "GET v1/conversations/conv_1": () => CONVERSATION,
    [ITEMS]: () => page(items),
    "POST v1/responses": (body: string | undefined) => {
      const sent = JSON.parse(body!) as { conversation: object; input?: string };
      assert.deepEqual(sent.conversation, { id: "conv_1", after });
      assert.equal(sent.input ?? null, question);
      if (question !== null) items.push({ ...message("msg_q", "user", question), after });
      const answer = message(id, "assistant", "new");
      items.push(question === null ? { ...answer, after } : answer);
      return stream(eventsOf(id.replace("msg", "resp"), "new"));
    },
    "POST v1/conversations/conv_1": (body: string | undefined) => ({
      ...CONVERSATION,
      ...(JSON.parse(body!) as object),
    }),
  };
}

const texts = (chat: Chat) => chat.messages.map(({ text }) => text);

test("what is said differently stands beside what was said", async () => {
  const { chat } = chatOn(branching("msg_b", "C", "msg_n"));
  await chat.open("conv_1", () => {});
  const before = chat.messages;
  await chat.edit(chat.messages[2]!, "C", DEFAULTS, "demo");
  assert.deepEqual(texts(chat), ["a", "b", "C", "new"]);
  assert.equal(chat.messages[1], before[1]);
  assert.deepEqual(chat.versions(chat.messages[2]!), ["msg_c", "msg_q"]);
  await chat.show("msg_c");
  assert.deepEqual(texts(chat), ["a", "b", "c", "d"]);
  assert.equal(chat.conversation!.metadata.leaf, "msg_d");
  await chat.show("msg_q");
  assert.equal(chat.conversation!.metadata.leaf, undefined);
  assert.deepEqual(texts(chat), ["a", "b", "C", "new"]);
});

test("another answer stands beside the last", async () => {
  const { chat } = chatOn(branching("msg_c", null, "msg_n"));
  await chat.open("conv_1", () => {});
  await chat.regenerate(DEFAULTS, "demo");
  assert.deepEqual(texts(chat), ["a", "b", "c", "new"]);
  assert.deepEqual(chat.versions(chat.messages[3]!), ["msg_d", "msg_n"]);
});

test("the first message can be said differently, too", async () => {
  const { chat } = chatOn(branching("root", "A", "msg_n"));
  await chat.open("conv_1", () => {});
  await chat.edit(chat.messages[0]!, "A", DEFAULTS, "demo");
  assert.deepEqual(texts(chat), ["A", "new"]);
});

test("the version that was last on show is opened", async () => {
  const server = branching("", null, "");
  const items = [...said(["a", "b"]), { ...message("msg_x", "assistant", "x"), after: "msg_a" }];
  const { chat } = chatOn({
    ...server,
    "GET v1/conversations/conv_1": () => ({ ...CONVERSATION, metadata: { leaf: "msg_b" } }),
    [ITEMS]: () => page(items),
  });
  await chat.open("conv_1", () => {});
  assert.deepEqual(texts(chat), ["a", "b"]);
});

test("what is refused leaves what was on show", async () => {
  const { chat } = chatOn({
    ...branching("", null, ""),
    "POST v1/responses": refusal(429, "busy"),
  });
  await chat.open("conv_1", () => {});
  await assert.rejects(chat.edit(chat.messages[2]!, "C", DEFAULTS, "demo"), { text: "C" });
  assert.deepEqual(texts(chat), ["a", "b", "c", "d"]);
});

test("a setting that is refused costs nothing", async () => {
  const { chat, asked } = chatOn({
    "GET v1/conversations/conv_1": () => CONVERSATION,
    [ITEMS]: () => page([message("msg_0", "user", "hi")]),
  });
  await chat.open("conv_1", () => {});
  const settings = { ...DEFAULTS, temperature: "warm" };
  await assert.rejects(chat.edit(chat.messages[0]!, "hello", settings, "demo"), { text: "hello" });
  await assert.rejects(chat.regenerate(settings, "demo"), { param: "temperature" });
  assert.equal(asked.length, 2);
});

/** A request that is answered when the test says so. */
function held<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((resolved) => (resolve = resolved));
  return { promise, resolve };
}

test("who turns away before the conversation is made is answered there", async () => {
  const made = held<object>();
  let begun = 0;
  const { chat, pending } = chatOn({
    "POST v1/conversations": () => made.promise,
    "POST v1/responses": (body) => {
      const { conversation, input, stream } = JSON.parse(body!) as Record<string, unknown>;
      assert.deepEqual({ conversation, input, stream }, { conversation: { id: "conv_1" }, input: "hi", stream: false });
      begun++;
      return { id: "resp_1", status: "in_progress" };
    },
    "POST v1/conversations/conv_1": () => NAMED,
    "GET v1/responses/resp_1": () => ({ id: "resp_1", status: "in_progress" }),
  });
  const sending = chat.send("hi", DEFAULTS, "demo");
  chat.startNew();
  made.resolve(CONVERSATION);
  await sending;
  assert.equal(begun, 1);
  assert.equal(pending["conv_1"], null);
  assert.deepEqual(chat.messages, []);
  assert.equal(chat.conversation, null);
});

test("who turns away before the answer is named sends the same request again", async () => {
  const bodies: Record<string, unknown>[] = [];
  const first = held<Response>();
  const isAsked = held<void>();
  const { chat, pending } = chatOn({
    "POST v1/conversations": () => CONVERSATION,
    "POST v1/responses": (body) => {
      bodies.push(JSON.parse(body!) as Record<string, unknown>);
      if (bodies.length === 1) isAsked.resolve();
      return bodies.length === 1 ? first.promise : { id: "resp_1", status: "in_progress" };
    },
    "POST v1/conversations/conv_1": () => NAMED,
    "GET v1/responses/resp_1": () => ({ id: "resp_1", status: "in_progress" }),
  });
  const sending = chat.send("hi", DEFAULTS, "demo");
  await isAsked.promise;
  chat.startNew();
  first.resolve(stream([]));
  await sending;
  const [streamed, whole] = bodies;
  assert.deepEqual({ ...streamed, stream: false }, whole);
  assert.equal(pending["conv_1"], null);
});

test("a conversation that cannot be made gives its message back, also to who turned away", async () => {
  const made = held<Response>();
  const { chat } = chatOn({ "POST v1/conversations": () => made.promise });
  const sending = chat.send("hi", DEFAULTS, "demo");
  chat.startNew();
  made.resolve(refusal(429, "busy")());
  await assert.rejects(sending, { text: "hi", conversation: "" });
});

test("a title that is given while an answer is named stays", async () => {
  const written: unknown[] = [];
  const { chat } = chatOn({
    "POST v1/conversations": () => CONVERSATION,
    "POST v1/responses": () => stream(eventsOf("resp_1", "hello")),
    "POST v1/conversations/conv_1": (body) => {
      written.push((JSON.parse(body!) as { metadata: object }).metadata);
      return NAMED;
    },
    [ITEMS]: () => page(said(["hi", "hello"])),
  });
  const sending = chat.send("hi", DEFAULTS, "demo");
  await new Promise(setImmediate);
  const renaming = chat.rename("Greetings");
  await Promise.all([sending, renaming]);
  await new Promise(setImmediate);
  assert.deepEqual(written.at(-1), { title: "Greetings", response: "resp_1" });
});

test("a title that is refused is the old one again", async () => {
  const { chat } = chatOn({
    "GET v1/conversations/conv_1": () => structuredClone(CONVERSATION),
    [ITEMS]: () => page([]),
    "POST v1/conversations/conv_1": refusal(400, "no"),
  });
  await chat.open("conv_1", () => {});
  await assert.rejects(chat.rename("Greetings"));
  assert.equal(chat.conversation!.metadata.title, "t");
});

test("another version that took a message's place is not edited", async () => {
  const { chat } = chatOn(branching("msg_b", "C", "msg_n"));
  await chat.open("conv_1", () => {});
  const old = chat.messages[2]!;
  await chat.edit(old, "C", DEFAULTS, "demo");
  await assert.rejects(chat.edit(old, "D", DEFAULTS, "demo"), { text: "D" });
  assert.deepEqual(texts(chat), ["a", "b", "C", "new"]);
});
