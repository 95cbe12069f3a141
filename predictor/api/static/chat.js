// The conversation and its controls. Text from the server is only ever put in as text.

import { liveFigures } from "./metrics.js";
import { listModels, readMetrics, streamChat } from "./server.js";

const METRICS_MILLISECONDS = 2000;

const element = (id) => document.getElementById(id);
const conversation = element("conversation");
const apiKey = () => element("api-key").value.trim();

let chat = { messages: [] };
let running = null;

function show(role, text) {
  const message = document.createElement("article");
  message.className = `message ${role}`;
  for (const [tag, name, content] of [["h3", "role", role], ["div", "text", text], ["p", "figures", ""]]) {
    const part = document.createElement(tag);
    part.className = name;
    part.textContent = content;
    message.append(part);
  }
  conversation.append(message);
  conversation.scrollTop = conversation.scrollHeight;
  return message;
}

function report(problem) {
  element("problem").textContent = problem ?? "";
  element("problem").hidden = !problem;
}

function parameters() {
  const fields = [...element("parameters").querySelectorAll("input")];
  const wrong = fields.find((field) => !field.checkValidity());
  if (wrong) throw new Error(`${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}`);
  return Object.fromEntries(fields.filter((field) => field.value !== "").map((field) => [field.name, Number(field.value)]));
}

function figures(answer) {
  if (!answer.firstAt) return "";
  const wait = `first token after ${((answer.firstAt - answer.startedAt) / 1000).toFixed(2)} s`;
  // Until the server's own count comes, each event is taken for a token.
  const tokens = answer.usage?.completion_tokens ?? answer.events;
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  const rate = tokens > 1 && seconds > 0 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  const end = answer.reason === "length" ? ", cut at the limit" : answer.reason === "stopped" ? ", stopped" : "";
  return `${tokens} tokens, ${wait}${rate}${end}`;
}

function take(event, answer, message) {
  const choice = event.choices[0];
  answer.usage = event.usage ?? answer.usage;
  answer.reason = choice?.finish_reason ?? answer.reason;
  const text = choice?.delta?.content;
  if (text) {
    answer.lastAt = performance.now();
    answer.firstAt ??= answer.lastAt;
    answer.events += 1;
    answer.text += text;
    const follows = conversation.scrollHeight - conversation.scrollTop - conversation.clientHeight < 40;
    message.querySelector(".text").append(text);
    if (follows) conversation.scrollTop = conversation.scrollHeight;
  }
  message.querySelector(".figures").textContent = figures(answer);
}

function giveBack(prompt, ...shown) {
  for (const message of shown) message.remove();
  element("prompt").value ||= prompt;
}

async function ask(prompt) {
  const system = element("system").value.trim();
  const body = { model: element("model").value, ...parameters() };
  element("prompt").value = "";
  const current = chat;
  const asked = [...current.messages, { role: "user", content: prompt }];
  body.messages = system ? [{ role: "system", content: system }, ...asked] : asked;
  const question = show("user", prompt);
  const message = show("assistant", "");
  const answer = { text: "", events: 0, startedAt: performance.now(), firstAt: null, lastAt: null, usage: null, reason: null };
  try {
    for await (const event of streamChat(body, apiKey(), running.signal)) take(event, answer, message);
  } catch (error) {
    if (error.name !== "AbortError") {
      if (!answer.text) giveBack(prompt, question, message);
      throw error;
    }
    answer.reason = "stopped";
    message.querySelector(".figures").textContent = figures(answer);
  } finally {
    if (answer.text) current.messages = [...asked, { role: "assistant", content: answer.text }];
  }
}

function setBusy(controller) {
  running = controller;
  element("send").hidden = controller !== null;
  element("stop").hidden = controller === null;
}

async function submit() {
  const prompt = element("prompt").value.trim();
  if (!prompt || running) return;
  report(null);
  const controller = new AbortController();
  setBusy(controller);
  try {
    await ask(prompt);
  } catch (error) {
    report(error.message);
  } finally {
    if (running === controller) setBusy(null);
  }
}

function clear() {
  running?.abort();
  setBusy(null);
  chat = { messages: [] };
  conversation.replaceChildren();
  report(null);
}

async function loadModels() {
  try {
    const names = await listModels(apiKey());
    element("model").replaceChildren(...names.map((name) => new Option(name, name)));
    report(null);
  } catch (error) {
    report(`The list of models: ${error.message}`);
  }
}

let lastReading = null;

async function refreshMetrics() {
  if (document.hidden) return;
  try {
    const values = await readMetrics(apiKey());
    const now = performance.now();
    const seconds = lastReading ? (now - lastReading.at) / 1000 : NaN;
    const rows = liveFigures(values, lastReading?.values, seconds);
    lastReading = { values, at: now };
    element("metrics").replaceChildren(...rows.flatMap(([label, text]) => [cell("dt", label), cell("dd", text)]));
    element("metrics-note").textContent = rows.length ? "" : "No metrics of this server here.";
  } catch (error) {
    lastReading = null;
    element("metrics").replaceChildren();
    element("metrics-note").textContent = `No metrics: ${error.message}`;
  }
}

function cell(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

async function watchMetrics() {
  for (;;) {
    await refreshMetrics();
    await new Promise((resolve) => setTimeout(resolve, METRICS_MILLISECONDS));
  }
}

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", clear);
element("access").addEventListener("submit", (event) => event.preventDefault());
element("api-key").addEventListener("change", loadModels);
loadModels();
watchMetrics();
