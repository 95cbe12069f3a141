// One answer as it comes: its text, its thoughts, its tool calls and its figures.

/** A new answer; times in milliseconds of `performance.now()`. */
export function newAnswer() {
  return {
    role: "assistant", content: "", thoughts: "", calls: [], reason: null,
    tokens: 0, startedAt: performance.now(), firstAt: null, answerAt: null, lastAt: null, progress: null,
  };
}

/** Take an event of the stream into an answer. */
export function take(event, answer) {
  const choice = event.choices?.[0];
  const delta = choice?.delta ?? {};
  answer.reason = choice?.finish_reason ?? answer.reason;
  if (event.prompt_progress) answer.progress = event.prompt_progress;
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  if (thought || delta.content || delta.tool_calls) {
    answer.lastAt = performance.now();
    answer.firstAt ??= answer.lastAt;
    answer.tokens += 1; // until the server's own count comes
    answer.thoughts += thought;
    answer.content += delta.content ?? "";
    for (const call of delta.tool_calls ?? []) takeCall(call, answer.calls);
    if (delta.content || delta.tool_calls) answer.answerAt ??= answer.lastAt;
  }
  answer.tokens = event.usage?.completion_tokens ?? answer.tokens;
}

function takeCall(part, calls) {
  const call = (calls[part.index ?? 0] ??= { name: "", arguments: "" });
  call.name += part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

export const isEmpty = (answer) => !answer.content && !answer.thoughts && !answer.calls.length;

/** Tokens, speed and the end of an answer, as text. */
export function figures(answer) {
  if (!answer.firstAt) return answer.reason === "stopped" ? "stopped" : "";
  const wait = `first token after ${((answer.firstAt - answer.startedAt) / 1000).toFixed(2)} s`;
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  const rate = answer.tokens > 1 && seconds > 0 ? `, ${((answer.tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  const end = { length: ", cut at the limit", stopped: ", stopped" }[answer.reason] ?? "";
  return `${answer.tokens} ${answer.tokens === 1 ? "token" : "tokens"}, ${wait}${rate}${end}`;
}

/** How long an answer's thoughts took, or that they go on. */
export function thoughtTime(answer) {
  const end = answer.answerAt ?? (answer.reason ? answer.lastAt : null);
  return end === null ? "Thinking\u2026" : `Thought for ${((end - answer.firstAt) / 1000).toFixed(1)} s`;
}
