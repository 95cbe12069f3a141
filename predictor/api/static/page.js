// The page: which conversation is shown, and what its buttons do.

import { isEmpty, newAnswer, take } from "./answer.js";
import { attach, setAttachments, takeAttachments } from "./attachments.js";
import { asMessages, forget, keep, keptConversations, newConversation } from "./conversations.js";
import { button, byId, make } from "./dom.js";
import { watchMetrics } from "./live.js";
import { AnswerView, userMessage } from "./message.js";
import { listModels, streamChat } from "./server.js";
import { apiKey, requestFields, startSettings, systemPrompt } from "./settings.js";

const DRAW_MILLISECONDS = 60;

let current = newConversation();
let running = null;

function report(problem) {
  byId("problem").textContent = problem ?? "";
  byId("problem").hidden = !problem;
}

function setBusy(controller) {
  running = controller;
  byId("send").hidden = controller !== null;
  byId("stop").hidden = controller === null;
}

// What is shown

function followsEnd() {
  const box = byId("conversation");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

function toEnd() {
  const box = byId("conversation");
  box.scrollTop = box.scrollHeight;
}

function drawConversation() {
  const shown = current.messages.map((message, index) =>
    message.role === "user"
      ? userMessage(message, (text) => edit(index, text))
      : new AnswerView(message, () => regenerate(index)).element,
  );
  byId("messages").replaceChildren(...shown);
  byId("welcome").hidden = shown.length > 0;
  toEnd();
}

function drawList() {
  const entries = keptConversations().map((conversation) => {
    const open = button(conversation.title, () => show(conversation), "entry");
    open.ariaCurrent = conversation.id === current.id ? "true" : null;
    const remove = button("\u00d7", () => discard(conversation));
    remove.ariaLabel = `Delete ${conversation.title}`;
    return make("li", {}, open, remove);
  });
  byId("chats").replaceChildren(...entries);
}

function show(conversation) {
  leave();
  current = conversation;
  drawConversation();
  drawList();
  openDrawer(null);
}

/** Stop what runs, and forget what was said of it. */
function leave() {
  running?.abort();
  setBusy(null);
  report(null);
}

function discard(conversation) {
  forget(conversation);
  if (conversation.id === current.id) show(newConversation());
  else drawList();
}

// Asking

async function submit() {
  const prompt = byId("prompt").value.trim();
  const attachments = takeAttachments();
  if ((!prompt && !attachments.length) || running) {
    setAttachments(attachments);
    return;
  }
  byId("prompt").value = "";
  const answered = await ask([...current.messages, { role: "user", content: prompt, attachments }]);
  if (!answered) {
    byId("prompt").value ||= prompt;
    setAttachments(attachments);
  }
}

function edit(index, text) {
  if (!text || running) return;
  ask([...current.messages.slice(0, index), { ...current.messages[index], content: text }]);
}

function regenerate(index) {
  if (!running) ask(current.messages.slice(0, index));
}

/**
 * Show an answer to messages, of which the last is the user's.
 * Where nothing comes of it the conversation stays as it was.
 * @returns {Promise<boolean>} whether anything came
 */
async function ask(messages) {
  report(null);
  const conversation = current;
  const before = conversation.messages;
  const controller = new AbortController();
  setBusy(controller);
  const answer = newAnswer();
  conversation.messages = messages;
  drawConversation();
  const view = new AnswerView(answer, () => regenerate(messages.length));
  byId("messages").append(view.element);
  view.draw(true);
  toEnd();
  try {
    await readAnswer(conversation, answer, view, controller.signal);
  } catch (error) {
    if (error.name === "AbortError") answer.reason = "stopped";
    else {
      answer.reason ??= "failed";
      if (conversation === current) report(error.message);
    }
  }
  const came = !isEmpty(answer);
  conversation.messages = came ? [...messages, answer] : before;
  if (came) keepOrReport(conversation);
  if (running === controller) setBusy(null);
  if (conversation === current) {
    const follows = followsEnd();
    view.draw(false);
    if (!came) drawConversation();
    if (follows) toEnd();
  }
  drawList();
  return came;
}

async function readAnswer(conversation, answer, view, signal) {
  const body = { model: byId("model").value, messages: asMessages(conversation.messages, systemPrompt()), ...requestFields() };
  let timer = null;
  const draw = () => {
    timer = null;
    const follows = followsEnd();
    view.draw(true);
    if (follows) toEnd();
  };
  try {
    for await (const event of streamChat(body, apiKey(), signal)) {
      take(event, answer);
      // The last event before a silence is drawn too.
      timer ??= setTimeout(draw, DRAW_MILLISECONDS);
    }
  } finally {
    clearTimeout(timer);
  }
}

function keepOrReport(conversation) {
  try {
    keep(conversation);
  } catch (error) {
    report(error.message);
  }
}

async function loadModels() {
  try {
    const names = await listModels(apiKey());
    byId("model").replaceChildren(...names.map((name) => new Option(name, name)));
    report(null);
  } catch (error) {
    report(`The list of models: ${error.message}`);
  }
}

async function attachFiles(files) {
  report(null);
  try {
    await attach(files);
  } catch (error) {
    report(error.message);
  }
}

// Drawers: the chats and the settings

function openDrawer(name) {
  for (const drawer of ["sidebar", "settings"]) {
    const open = drawer === name && !document.body.classList.contains(`${drawer}-open`);
    document.body.classList.toggle(`${drawer}-open`, open);
    byId(`${drawer}-button`).ariaExpanded = String(open);
  }
}

byId("sidebar-button").onclick = () => openDrawer("sidebar");
byId("settings-button").onclick = () => openDrawer("settings");
byId("close-settings").onclick = () => openDrawer(null);
byId("shade").onclick = () => openDrawer(null);
byId("clear").onclick = () => show(newConversation());
byId("stop").onclick = () => running?.abort();
byId("attach").onclick = () => byId("files").click();
byId("files").onchange = ({ target }) => attachFiles([...target.files]).then(() => (target.value = ""));
byId("api-key").onchange = loadModels;
byId("settings-form").onsubmit = (event) => event.preventDefault();
byId("composer").onsubmit = (event) => {
  event.preventDefault();
  submit();
};
byId("prompt").onkeydown = (event) => {
  // On a phone the key begins a line; sending has a button there.
  const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
  if (!sends) return;
  event.preventDefault();
  submit();
};
byId("prompt").onpaste = (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  attachFiles([...event.clipboardData.files]);
};
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  attachFiles([...event.dataTransfer.files]);
};
document.onkeydown = (event) => {
  if (event.key === "Escape") openDrawer(null);
};

startSettings();
const [last] = keptConversations();
if (last) current = last;
drawConversation();
drawList();
loadModels();
watchMetrics(() => document.body.classList.contains("settings-open"));
