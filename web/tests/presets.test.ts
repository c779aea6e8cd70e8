import assert from "node:assert/strict";
import { test } from "node:test";
import { FileError } from "../src/files.ts";
import { fromFile, joined, toFile } from "../src/presets.ts";
import { DEFAULTS } from "../src/request.ts";

const WARM = { ...DEFAULTS, temperature: "1.5" };
const COLD = { ...DEFAULTS, temperature: "0" };

test("presets are the same out of a file", () => {
  const presets = { "a": WARM, "b": { ...COLD, dropOldest: true } };
  assert.deepEqual(fromFile(toFile(presets)), presets);
});

test("settings that a file lacks are left to the model", () => {
  const json = toFile({ a: { temperature: "0" } as typeof COLD });
  assert.deepEqual(fromFile(json), { a: COLD });
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
    { format, presets: { " ": COLD } },
  ];
  for (const file of ["", ...files.map((file) => JSON.stringify(file))]) {
    assert.throws(() => fromFile(file), FileError, file);
  }
});
