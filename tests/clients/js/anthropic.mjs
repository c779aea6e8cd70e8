// @anthropic-ai/sdk: tools by hand and by its runner, thinking, streams, counts.
import assert from "node:assert/strict"
import Anthropic from "@anthropic-ai/sdk"
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod"
import { z } from "zod"

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 })
const results = { Oslo: "-3", Rome: "21" }
const asked = 'think Two.\ncall weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\nsay Cold, and warm.'
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
const tools = [{ name: "weather", description: "Of a city.", input_schema }]
const messages = [{ role: "user", content: asked }]
const body = { model: "demo", max_tokens: 1000, tools, thinking: { type: "adaptive" } }

for (const isStreamed of [false, true]) {
  const first = isStreamed
    ? await client.messages.stream({ ...body, messages }).finalMessage()
    : await client.messages.create({ ...body, messages })
  assert.equal(first.stop_reason, "tool_use")
  assert.deepEqual(first.content.map((block) => block.type), ["thinking", "tool_use", "tool_use"])
  const said = first.content.filter((block) => block.type === "tool_use").map((block) => ({
    type: "tool_result",
    tool_use_id: block.id,
    content: results[block.input.city],
  }))
  const all = [...messages, { role: "assistant", content: first.content }, { role: "user", content: said }]
  const last = await client.messages.create({ ...body, messages: all })
  assert.equal(last.content.at(-1).text, "Cold, and warm.")
  const { max_tokens, ...counted } = body
  const { input_tokens } = await client.messages.countTokens({ ...counted, messages: all })
  assert.equal(input_tokens, last.usage.input_tokens)
}

const tool = betaZodTool({
  name: "weather",
  description: "Of a city.",
  inputSchema: z.object({ city: z.string() }),
  run: ({ city }) => results[city],
})
for (const stream of [false, true]) {
  const runner = client.beta.messages.toolRunner({ model: "demo", max_tokens: 1000, messages, tools: [tool], stream })
  assert.equal((await runner.runUntilDone()).content.at(-1).text, "Cold, and warm.")
}
