// openai: the SDK's own loop of tools, streams of chats and of responses.
import assert from "node:assert/strict"
import OpenAI from "openai"
import { zodFunction } from "openai/helpers/zod"
import { z } from "zod"

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 })
const results = { Oslo: "-3", Rome: "21" }
const asked = 'call weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\nsay Cold, and warm.'
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
const messages = [{ role: "user", content: asked }]

const cities = []
const tool = zodFunction({
  name: "weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  function: ({ city }) => (cities.push(city), results[city]),
})
for (const stream of [false, true]) {
  const runner = client.chat.completions.runTools({ model: "demo", messages, tools: [tool], stream })
  assert.equal(await runner.finalContent(), "Cold, and warm.")
}
assert.deepEqual(cities, ["Oslo", "Rome", "Oslo", "Rome"])

const tools = [{ type: "function", name: "weather", parameters, strict: false }]
for (const store of [false, true]) {
  const stream = client.responses.stream({ model: "demo", input: messages, tools, store })
  const kinds = new Set()
  for await (const event of stream) kinds.add(event.type)
  assert(kinds.has("response.function_call_arguments.done"))
  const first = await stream.finalResponse()
  const calls = first.output.filter((item) => item.type === "function_call")
  const outputs = calls.map((call) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: results[JSON.parse(call.arguments).city],
  }))
  assert.deepEqual(outputs.map((one) => one.output), ["-3", "21"])
  const more = store
    ? { previous_response_id: first.id, input: outputs }
    : { input: [...messages, ...first.output, ...outputs] }
  const last = await client.responses.create({ model: "demo", tools, store, ...more })
  assert.equal(last.output_text, "Cold, and warm.")
}
