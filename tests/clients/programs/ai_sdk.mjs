// Vercel's AI SDK: ai_sdk.mjs URL MODEL responses|chat|anthropic
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, model, kind] = process.argv.slice(2);
const calls = [];
const tools = {
  weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (calls.push(["weather", { city }]), `It is sunny in ${city}.`),
  }),
  add: tool({
    description: "The sum of two numbers.",
    inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
    execute: async ({ a, b }) => (calls.push(["add", { a, b }]), String(a + b)),
  }),
};
const made = {
  responses: () => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).responses(model),
  chat: () => createOpenAICompatible({ name: "local", baseURL: `${url}/v1` })(model),
  anthropic: () => createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })(model),
};
const result = streamText({
  model: made[kind](),
  tools,
  stopWhen: stepCountIs(6),
  maxRetries: 0,
  maxOutputTokens: 200,
  prompt: "What is the weather in Paris and in Rome, and what is 1 + 2?",
  onError: ({ error }) => {
    throw error;
  },
  ...(kind === "responses" ? { providerOptions: { openai: { store: false } } } : {}),
});
const text = await result.text;
console.log(JSON.stringify({ calls, text }));
