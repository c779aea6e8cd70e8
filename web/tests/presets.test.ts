import assert from "node:assert/strict";
import { test } from "node:test";
import { FileError } from "../src/files.ts";
import { fromFile, joined, toFile } from "../src/presets.ts";

const WARM = { temperature: 1.5 };
const COLD = { temperature: 0 };

test("presets are the same out of a file", () => {
  const presets = { a: WARM, b: { ...COLD, truncation: "auto", tools: [{ type: "function" }] } };
  assert.deepEqual(fromFile(toFile(presets)), presets);
});

test("files of before hold settings as they were typed", () => {
  const typed = { instructions: " Be brief. ", temperature: "0.50", topK: "none", dropOldest: true };
  const json = JSON.stringify({ format: "llamastream presets 1", presets: { a: typed, b: {} } });
  const a = { instructions: "Be brief.", truncation: "auto", temperature: 0.5 };
  assert.deepEqual(fromFile(json), { a, b: {} });
});

test("presets that are taken in replace no others", () => {
  const all = joined({ a: WARM, b: COLD }, { a: COLD, b: COLD, constructor: WARM });
  assert.deepEqual(all, { a: WARM, b: COLD, "a (2)": COLD, constructor: WARM });
});

test("other files are refused", () => {
  const format = "llamastream presets 1";
  const files: unknown[] = [
    ...[null, [], { presets: {} }, { format: "llamastream conversations 1", presets: {} }, { format }],
    ...[{ temperature: 1 }, { size: "1" }, { dropOldest: "yes" }, { constructor: "x" }].map(
      (settings) => ({ format, presets: { a: settings } }),
    ),
    ...[{ " ": COLD }, { a: 1 }, { a: [] }].map((presets) => ({ format: "llamastream presets 2", presets })),
  ];
  for (const file of ["", ...files.map((file) => JSON.stringify(file))]) {
    assert.throws(() => fromFile(file), FileError, file);
  }
});
