import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, delivered, fromOptions, requestBody, SettingError, titleOf, toOptions } from "../src/request.ts";

const body = (settings: object, input: string | null = "hi") =>
  requestBody({ ...DEFAULTS, ...settings }, "demo", { id: "conv_1" }, input);

test("empty settings leave everything to the model", () => {
  assert.deepEqual(JSON.parse(body({})), {
    model: "demo",
    conversation: { id: "conv_1" },
    store: true,
    background: true,
    input: "hi",
  });
});

test("settings are sent under the server's names", () => {
  const settings = { instructions: " Be brief. ", temperature: "0.5", maxTokens: "12" };
  const sent = JSON.parse(body({ ...settings, dropOldest: true }, null));
  assert.equal(sent.instructions, "Be brief.");
  assert.equal(sent.temperature, 0.5);
  assert.equal(sent.max_output_tokens, 12);
  assert.equal(sent.truncation, "auto");
  assert.ok(!("input" in sent));
});

test("settings are options and options are settings", () => {
  const settings = {
    ...DEFAULTS,
    ...{ instructions: "Be brief.", temperature: "0.5", maxTokens: "12", seed: "7", topP: "1e-7" },
    ...{ topK: "40", schema: '{\n "type": "object"\n}', dropOldest: true },
  };
  assert.deepEqual(fromOptions(JSON.parse(toOptions(settings))), { settings, others: [] });
  assert.deepEqual(fromOptions({}), { settings: DEFAULTS, others: [] });
  const { others } = fromOptions({ tools: [], text: { format: { type: "json_object" } } });
  assert.deepEqual(others, ["tools", "text"]);
});

test("a schema is sent as it was typed, and must be JSON", () => {
  const schema = '{ "const": 18446744073709551615 }';
  const sent = body({ schema: ` ${schema}\n` });
  assert.ok(sent.includes(`"schema":${schema}}`));
  assert.equal(JSON.parse(sent).text.format.type, "json_schema");
  assert.equal(JSON.parse(sent).text.format.strict, true);
  assert.throws(
    () => body({ schema: "{" }),
    (error) => error instanceof SettingError && error.param === "text.format",
  );
  assert.ok(!("text" in JSON.parse(body({ schema: " " }))));
});

test("a seed may be larger than JavaScript's numbers", () => {
  assert.match(body({ seed: "18446744073709551615" }), /"seed":18446744073709551615[,}]/);
  assert.match(body({ seed: "007" }), /"seed":7[,}]/);
  assert.match(body({ seed: "-0" }), /"seed":-0[,}]/);
});

test("what is no number is refused by the server's name for it", () => {
  const refusals = { temperature: "warm", maxTokens: "1.5", seed: '1,"store":false' };
  const params = Object.entries(refusals).map(([name, typed]) => {
    try {
      body({ [name]: typed });
    } catch (error) {
      return (error as SettingError).param;
    }
    return null;
  });
  assert.deepEqual(params, ["temperature", "max_output_tokens", "seed"]);
});

test("the same request is streamed or not", () => {
  assert.equal(JSON.parse(delivered(body({}), { stream: true })).stream, true);
  assert.equal(JSON.parse(delivered(body({}), { stream: false })).stream, false);
});

test("a title is the first words", () => {
  assert.equal(titleOf("  What is\n\nthis? "), "What is this?");
  assert.equal(titleOf("word ".repeat(30)), `${"word ".repeat(9).trimEnd()}…`);
  assert.equal(titleOf("x".repeat(100)), `${"x".repeat(48)}…`);
});
