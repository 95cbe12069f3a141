// What the page asks of the server: models, streamed chat completions and metrics.

/** An answer that is no success; the message is the server's own, where it gave one. */
export class ServerProblem extends Error {}

function headers(apiKey) {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

async function accepted(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const error = body?.error;
  const message = (typeof error === "string" ? error : error?.message) ?? response.statusText;
  throw new ServerProblem(`${response.status}: ${message}`);
}

/** Names of the models that are served. */
export async function listModels(apiKey) {
  const response = await accepted(await fetch("v1/models", { headers: headers(apiKey) }));
  return (await response.json()).data.map((model) => model.id);
}

/**
 * Send a chat completion and yield its events as they come.
 * The body is OpenAI's; leaving the loop or aborting the signal ends the request on the server too.
 */
export async function* streamChat(body, apiKey, signal) {
  const response = await accepted(
    await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers(apiKey) },
      body: JSON.stringify({ ...body, stream: true, return_progress: true, stream_options: { include_usage: true } }),
      signal,
    }),
  );
  for await (const data of serverSentData(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ServerProblem(event.error.message ?? String(event.error));
    yield event;
  }
  throw new ServerProblem("the connection ended before the answer did");
}

async function* serverSentData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The server's metrics as a map from name to value; those of several label sets are added up. */
export async function readMetrics(apiKey) {
  const response = await accepted(await fetch("metrics", { headers: headers(apiKey) }));
  const values = new Map();
  for (const line of (await response.text()).split("\n")) {
    const found = /^(\w+)(?:\{.*\})? (\S+)$/.exec(line);
    if (found) values.set(found[1], (values.get(found[1]) ?? 0) + Number(found[2]));
  }
  return values;
}
