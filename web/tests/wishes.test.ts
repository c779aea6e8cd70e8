import assert from "node:assert/strict";
import { test } from "node:test";
import { Wishes } from "../src/wishes.ts";

function wishes() {
  const done: string[] = [];
  const back: string[] = [];
  const state = { isFree: false };
  const all = new Wishes(() => state.isFree, (text) => void back.push(text));
  const ask = (name: string, deed: string, text: string | null = null) =>
    all.ask(name, () => { done.push(deed); state.isFree = false; }, text);
  return { all, ask, done, back, state };
}

test("what is asked for while something is under way is done behind it, one after the other", () => {
  const { all, ask, done, state } = wishes();
  ask("edit", "edit 1");
  ask("send", "send");
  assert.deepEqual(done, []);
  for (const deeds of [["edit 1"], ["edit 1", "send"], ["edit 1", "send"]]) {
    state.isFree = true;
    all.next();
    assert.deepEqual(done, deeds);
  }
  assert.ok(all.isEmpty);
});

test("what is free is done at once", () => {
  const { ask, done, state } = wishes();
  state.isFree = true;
  ask("send", "send");
  assert.deepEqual(done, ["send"]);
});

test("the last wish of a name counts, and texts of others are given back", () => {
  const { all, ask, done, back, state } = wishes();
  ask("show", "first");
  ask("show", "second");
  ask("edit", "edit", "words");
  ask("edit", "edit again", "other words");
  assert.deepEqual(back, ["words"]);
  all.clear();
  assert.deepEqual(back, ["words", "other words"]);
  state.isFree = true;
  all.next();
  assert.deepEqual(done, []);
});
