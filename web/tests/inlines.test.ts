import assert from "node:assert/strict";
import { test } from "node:test";
import type { Token, Tokens } from "marked";
import { GrowingTokens, InlineReader } from "../src/inlines.ts";

function tokensOf(text: string, size = text.length): Token[] {
  const growing = new GrowingTokens(new InlineReader({}));
  for (let k = size; k < text.length; k += size) growing.update(text.slice(0, k));
  growing.update(text);
  return growing.tokens;
}

const brief = (tokens: Token[]) => tokens.map(({ type, raw }) => `${type}: ${raw}`);
const LONG = "Some *words* 😀 and `code`, [a](https://example.org), $x_1$ more. ".repeat(300);

test("nothing of a text is lost or said twice, in one piece or many", () => {
  for (const size of [LONG.length, 7, 999, 1003]) {
    const tokens = tokensOf(LONG, size);
    assert.equal(tokens.map(({ raw }) => raw).join(""), LONG);
    assert.equal(tokens.filter(({ type }) => type === "math").length, 300);
  }
});

test("formulas are found, and prices are none", () => {
  const text = "$a_1 + b_1$ \\(c\\) $$d$$ \\[e\\] for $5 or $6, $7-$8 and \\$9";
  const found = tokensOf(text).filter(({ type }) => type === "math");
  assert.deepEqual(brief(found), [
    "math: $a_1 + b_1$",
    "math: \\(c\\)",
    "math: $$d$$",
    "math: \\[e\\]",
  ]);
});

test("a longer text costs no more for each token", () => {
  const costs = [500, 5_000].map((num) => {
    const reader = new InlineReader({});
    const growing = new GrowingTokens(reader);
    let text = "";
    for (let k = 0; k < num; k++) growing.update((text += "word *a* "));
    return reader.numRead / num;
  });
  assert.ok(costs[1]! < costs[0]! * 1.6 && costs[1]! <= 1_000, String(costs));
});

test("emphasis is found wherever a piece ends", () => {
  for (let k = 400; k < 1_700; k += 13) {
    const tokens = tokensOf(`${"word ".repeat(k / 5)}**bold words**${" more".repeat(300)}`, 11);
    assert.equal(tokens.filter(({ type }) => type === "strong").length, 1, String(k));
  }
});

test("what is nested too deep is text", () => {
  const deep = (tokens: Token[] | undefined): number =>
    1 + Math.max(0, ...(tokens ?? []).map((token) => deep((token as Tokens.Generic).tokens)));
  for (const [open, close] of [
    ["*", "*"],
    ["*_", "_*"],
    ["**", "**"],
    ["[", "](u)"],
    ["~~*", "*~~"],
  ] as const) {
    const text = open.repeat(5_000) + "end" + close.repeat(5_000);
    const tokens = tokensOf(text);
    assert.ok(deep(tokens) < 40);
    assert.equal(tokens.map(({ raw }) => raw).join(""), text);
  }
});
