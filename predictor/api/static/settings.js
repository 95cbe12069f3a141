// The settings' form: what is sent with every request, and how the page looks.

import { keepSettings, keptSettings } from "./conversations.js";
import { byId } from "./dom.js";

const form = () => byId("settings-form");

/** Show what was set before, and keep what is set from now on; the API key is never kept. */
export function startSettings() {
  const kept = keptSettings();
  for (const field of form().elements) {
    if (field.name && field.type !== "password" && kept[field.name] !== undefined) field.value = kept[field.name];
  }
  applyTheme();
  form().addEventListener("change", () => {
    const fields = [...form().elements].filter((field) => field.name && field.type !== "password");
    keepSettings({ ...keptSettings(), ...Object.fromEntries(fields.map((field) => [field.name, field.value])) });
    applyTheme();
  });
}

function applyTheme() {
  document.documentElement.dataset.theme = form().elements.theme.value;
}

export const apiKey = () => byId("api-key").value.trim();
export const systemPrompt = () => byId("system").value.trim();

/** The fields of a request. Throws where one can't be sent, with its name. */
export function requestFields() {
  const numbers = [...byId("parameters").querySelectorAll("input")];
  const wrong = numbers.find((field) => !field.checkValidity());
  if (wrong) throw new Error(`${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}`);
  const fields = Object.fromEntries(numbers.filter((field) => field.value !== "").map((field) => [field.name, Number(field.value)]));
  const effort = form().elements.reasoning_effort.value;
  if (effort) fields.reasoning_effort = effort;
  const tools = form().elements.tools.value.trim();
  if (tools) fields.tools = parsedTools(tools);
  return fields;
}

function parsedTools(text) {
  try {
    const tools = JSON.parse(text);
    if (Array.isArray(tools)) return tools;
  } catch {
    // Said below.
  }
  throw new Error('Tools: must be a JSON list, such as [{"type": "function", "function": {"name": "now"}}]');
}
