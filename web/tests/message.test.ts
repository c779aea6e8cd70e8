import assert from "node:assert/strict";
import { test } from "node:test";
import { Answer, type StreamEvent } from "../src/answer.ts";
import type { Item } from "../src/api.ts";
import { toMessages } from "../src/message.ts";

const user = (id: string, text: string): Item => ({ id, role: "user", content: [{ text }] });
const words = (id: string, text: string): Item => ({
  ...{ id, type: "message", role: "assistant", status: "completed", content: [{ text }] },
});
const thought: Item = { id: "rs_1", type: "reasoning", summary: [], content: [{ text: "Hm." }] };
const call: Item = {
  ...{ id: "fc_1", type: "function_call", call_id: "call_1", status: "completed" },
  ...{ name: "weather", arguments: '{"city":"Rome"}' },
};
const output: Item = { id: "fo_1", type: "function_call_output", call_id: "call_1", output: "sunny" };

const CALLED = { kind: "call", id: "call_1", name: "weather", input: '{"city":"Rome"}' };

test("steps belong to the answer behind them, and results to their calls", () => {
  const items = [user("u", "Rome?"), thought, call, output, words("w", "Sunny."), user("v", "Thanks")];
  const messages = toMessages(items);
  assert.deepEqual(
    messages.map(({ role, text, ids }) => [role, text, ids]),
    [
      ["user", "Rome?", ["u"]],
      ["assistant", "Sunny.", ["rs_1", "fc_1", "fo_1", "w"]],
      ["user", "Thanks", ["v"]],
    ],
  );
  assert.deepEqual(messages[1]!.parts, [
    { kind: "reasoning", text: "Hm." },
    { ...CALLED, result: "sunny" },
    { kind: "text", text: "Sunny." },
  ]);
});

test("answers that follow one another stay apart, with the steps of each", () => {
  const messages = toMessages([words("a", "one"), call, words("b", "two")]);
  assert.deepEqual(
    messages.map(({ text, ids }) => [text, ids]),
    [
      ["one", ["a", "fc_1"]],
      ["two", ["b"]],
    ],
  );
});

test("what is not known and what the system says is not shown, but followed", () => {
  const system: Item = { id: "s", role: "system", content: [{ text: "Be brief." }] };
  const messages = toMessages([system, user("u", "hi"), { id: "x", type: "compaction" }]);
  assert.deepEqual(
    messages.map(({ text, id }) => [text, id]),
    [["hi", "x"]],
  );
});

test("a message is the same as the server's, also where that knows more of it", () => {
  const [shown] = toMessages([call]);
  const [fresh] = toMessages([call, output]);
  assert.ok(shown!.isSame(fresh!));
  shown!.take(fresh!);
  assert.deepEqual(shown!.parts, [{ ...CALLED, result: "sunny" }]);
  assert.deepEqual(shown!.ids, ["fc_1", "fo_1"]);
  assert.ok(!shown!.isSame(toMessages([call, output, words("w", "Sunny.")])[0]!));
});

test("steps grow by their events, and the end has the last word", () => {
  const opened = { ...thought, content: [] };
  const bodies: Partial<StreamEvent>[] = [
    { type: "response.output_item.added", output_index: 0, item: opened },
    { type: "response.reasoning_text.delta", output_index: 0, delta: "Hm" },
    { type: "response.reasoning_text.delta", output_index: 0, delta: "." },
    { type: "response.output_item.done", output_index: 0, item: thought },
    { type: "response.output_item.added", output_index: 1, item: { ...call, arguments: "" } },
    { type: "response.function_call_arguments.delta", output_index: 1, delta: '{"city":' },
    { type: "response.function_call_arguments.delta", output_index: 1, delta: '"Rome"}' },
    { type: "response.output_item.added", output_index: 2, item: words("w", "") },
    { type: "response.output_text.delta", output_index: 2, delta: "Let me " },
  ];
  const answer = new Answer("resp_1");
  const { parts } = answer;
  bodies.forEach((body, k) => answer.apply({ sequence_number: k, ...body } as StreamEvent, k));
  const steps = [{ kind: "reasoning", text: "Hm." }, { ...CALLED, result: null }];
  assert.deepEqual(parts, [...steps, { kind: "text", text: "Let me " }]);
  const end = {
    ...{ id: "resp_1", status: "completed", error: null, usage: null },
    output: [thought, call, words("w", "Let me look.")],
  };
  answer.apply({ type: "response.completed", sequence_number: 99, response: end } as never, 99);
  assert.deepEqual(parts, [...steps, { kind: "text", text: "Let me look." }]);
  assert.equal(answer.text, "Let me look.");
});
