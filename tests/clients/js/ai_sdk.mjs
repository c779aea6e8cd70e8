// Vercel's AI SDK by all of its three ways here: loops of tools, streamed and whole, and objects.
import assert from "node:assert/strict"
import { createAnthropic } from "@ai-sdk/anthropic"
import { createOpenAI } from "@ai-sdk/openai"
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai"
import { z } from "zod"

const baseURL = `${process.argv[2]}/v1`
const openai = createOpenAI({ baseURL, apiKey: "none" })
const compatible = createOpenAICompatible({ name: "here", baseURL, supportsStructuredOutputs: true })
const anthropic = createAnthropic({ baseURL, apiKey: "none" })
const models = {
  responses: openai("demo"),
  chats: openai.chat("demo"),
  compatible: compatible("demo"),
  messages: anthropic("demo"),
}
const results = { Oslo: "-3", Rome: "21" }
const prompt = 'call weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\nsay Cold, and warm.'

for (const [name, model] of Object.entries(models)) {
  const cities = []
  const weather = tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (cities.push(city), results[city]),
  })
  const asked = { model, prompt, tools: { weather }, stopWhen: stepCountIs(5), maxRetries: 0 }
  const whole = await generateText(asked)
  assert.equal(whole.text, "Cold, and warm.", name)
  assert.equal(whole.steps.length, 2, name)
  const streamed = streamText({ ...asked, onError: ({ error }) => { throw error } })
  let text = ""
  for await (const piece of streamed.textStream) text += piece
  assert.equal(text, "Cold, and warm.", name)
  assert.deepEqual(cities.toSorted(), ["Oslo", "Oslo", "Rome", "Rome"], name)
  const forced = await generateText({ ...asked, prompt: "hi", toolChoice: "required", stopWhen: stepCountIs(1) })
  assert.equal(forced.toolCalls.length, 1, name)
  const schema = z.object({ city: z.string(), degrees: z.number() })
  const said = 'say {"city":"Oslo","degrees":-3}\n'
  const call = 'call json {"city": "Oslo", "degrees": -3}'
  const { object } = await generateObject({ model, schema, prompt: name === "messages" ? call : said, maxRetries: 0 })
  assert.deepEqual(object, { city: "Oslo", degrees: -3 }, name)
}

const { reasoningText, text } = await generateText({ model: models.chats, prompt: "think Hm.\nsay Yes.", maxRetries: 0 })
assert.equal(text, "Yes.")
const thought = await generateText({ model: models.compatible, prompt: "think Hm.\nsay Yes.", maxRetries: 0 })
assert.equal(thought.reasoningText, "Hm.")
