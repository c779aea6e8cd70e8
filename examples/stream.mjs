// The same stream in a browser (as a module) or in Node 18 or later:
//   node examples/stream.mjs http://127.0.0.1:8000
const url = new URL("/stream", globalThis.process?.argv[2] ?? "http://127.0.0.1:8000");
url.search = new URLSearchParams({ prompt: "Once upon a time", max_tokens: 40 });

const response = await fetch(url);
if (!response.ok) throw new Error((await response.json()).error.message);

let rest = "";
let text = "";
for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + chunk).split("\r\n\r\n");
  rest = events.pop();
  for (const event of events) {
    const lines = event.split("\r\n");
    const last = (name) => lines.findLast((line) => line.startsWith(name))?.slice(name.length);
    if (last("event: ") === "end") break;
    const data = JSON.parse(last("data: "));
    if (last("event: ") === "error") throw new Error(data.error.message);
    text += data.generated_text; // show it
  }
}
console.log(text);
