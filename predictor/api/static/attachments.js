// Text files that go along with a message.

import { button, byId, make } from "./dom.js";

const MOST_BYTES = 1024 * 1024;

let attached = [];

/** Read files; throws where one is no text, or too large. */
export async function attach(files) {
  for (const file of files) {
    if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES / 1024 / 1024} MiB.`);
    attached.push({ name: file.name, text: await readText(file) });
  }
  draw();
}

async function readText(file) {
  const bytes = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Not UTF-8.
  }
  throw new Error(`${file.name} is no text file in UTF-8.`);
}

/** What is attached, which is then attached no more. */
export function takeAttachments() {
  const taken = attached;
  setAttachments([]);
  return taken;
}

export function setAttachments(attachments) {
  attached = attachments;
  draw();
}

function draw() {
  const chips = attached.map((one) => {
    const remove = button("\u00d7", () => setAttachments(attached.filter((other) => other !== one)));
    remove.ariaLabel = `Remove ${one.name}`;
    return make("span", { className: "chip" }, one.name, remove);
  });
  byId("attachments").replaceChildren(...chips);
}
