// Conversations, kept in this browser alone.
//
// A conversation is {id, title, changed, messages}; a message {role, content}, a user's with `attachments`
// [{name, text}], the model's with what an `Answer` has.

const PREFIX = "kserve-llamacpp.chat.";
const SETTINGS = "kserve-llamacpp.settings";
const TITLE_CHARACTERS = 60;

export function newConversation() {
  const random = crypto.getRandomValues(new Uint32Array(2));
  return { id: `${Date.now().toString(36)}-${random.join("-")}`, title: "New chat", changed: Date.now(), messages: [] };
}

/** All that are kept, the last one used first; what can't be read is passed over. */
export function keptConversations() {
  const found = [];
  for (const key of Object.keys(localStorage)) {
    if (!key.startsWith(PREFIX)) continue;
    try {
      const conversation = JSON.parse(localStorage.getItem(key));
      if (Array.isArray(conversation.messages)) found.push(conversation);
    } catch {
      // Another program's, or damaged.
    }
  }
  return found.sort((one, other) => other.changed - one.changed);
}

/** Keep a conversation as it is now. Throws where the browser has no room left. */
export function keep(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  if (first) conversation.title = first.content.trim().replace(/\s+/g, " ").slice(0, TITLE_CHARACTERS) || "Attachments";
  conversation.changed = Date.now();
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
  } catch {
    throw new Error("This browser has no room left for chats: delete some. This one is lost when the page is closed.");
  }
}

export function forget(conversation) {
  localStorage.removeItem(PREFIX + conversation.id);
}

/** Settings by name, all of them text or booleans. */
export function keptSettings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS)) ?? {};
  } catch {
    return {};
  }
}

export function keepSettings(settings) {
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}

/** The conversation as the server takes it. */
export function asMessages(messages, system) {
  const asked = messages.map(({ role, content, attachments = [] }) => ({
    role,
    content: [...attachments.map(({ name, text }) => `File ${name}:\n\n${fenced(text)}`), content].filter(Boolean).join("\n\n"),
  }));
  return system ? [{ role: "system", content: system }, ...asked] : asked;
}

function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}\n${fence}`;
}
