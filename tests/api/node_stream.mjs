// Reads a stream of chat completions with Node's own fetch, which gives up after some silence.
const [url, model, milliseconds] = process.argv.slice(2);
const Agent = globalThis[Symbol.for("undici.globalDispatcher.1")]?.constructor;
await fetch(url).catch(() => {}); // makes the dispatcher
const Made = Agent ?? globalThis[Symbol.for("undici.globalDispatcher.1")].constructor;
const silence = Number(milliseconds);
const answer = await fetch(`${url}/v1/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Hi" }] }),
  dispatcher: new Made({ headersTimeout: silence, bodyTimeout: silence }),
});
let text = "";
let held = "";
const decoder = new TextDecoder();
for await (const part of answer.body) {
  held += decoder.decode(part, { stream: true });
  const lines = held.split("\n");
  held = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    text += JSON.parse(line.slice(6)).choices[0]?.delta?.content ?? "";
  }
}
console.log(text);
