// A message on the page.

import { figures, thoughtTime } from "./answer.js";
import { button, copyButton, make } from "./dom.js";
import { MarkdownView } from "./markdown.js";

const NAMES = { user: "You", assistant: "Model" };

/** A user's message. `onEdit` is given the new text. */
export function userMessage(message, onEdit) {
  const text = make("div", { className: "text" }, message.content);
  const files = (message.attachments ?? []).map(({ name, text: content }) =>
    make("details", { className: "attachment" }, make("summary", {}, name), make("pre", {}, content)),
  );
  const actions = make("div", { className: "actions" }, copyButton(() => message.content), button("Edit", () => edit()));
  const article = make("article", { className: "message user" }, title("user"), ...files, text, actions);

  function edit() {
    const area = make("textarea", { value: message.content, className: "editor" });
    area.ariaLabel = "Edited message";
    const done = () => form.replaceWith(text, actions);
    const form = make(
      "div",
      { className: "editing" },
      area,
      make("div", { className: "actions" }, button("Send", () => onEdit(area.value.trim()), "primary"), button("Cancel", done)),
    );
    actions.remove();
    text.replaceWith(form);
    area.focus();
  }

  return article;
}

function title(role) {
  return make("h3", { className: "role" }, NAMES[role]);
}

/** An answer, drawn anew by `draw` whenever it has grown. */
export class AnswerView {
  constructor(answer, onRegenerate) {
    this.answer = answer;
    this.summary = make("summary");
    const thoughts = make("div", { className: "thoughts-text" });
    this.thoughts = make("details", { className: "thoughts", hidden: true }, this.summary, thoughts);
    this.thoughtsView = new MarkdownView(thoughts);
    this.bar = make("progress", { max: 1 });
    this.reading = make("p", { className: "figures" });
    this.progress = make("div", { className: "progress", hidden: true }, this.reading, this.bar);
    const text = make("div", { className: "text markdown" });
    this.view = new MarkdownView(text);
    this.calls = make("div", { className: "calls" });
    this.figures = make("span", { className: "figures" });
    const copy = copyButton(() => this.answer.content);
    this.actions = make("div", { className: "actions" }, copy, button("Regenerate", onRegenerate), this.figures);
    this.element = make(
      "article",
      { className: "message assistant" },
      title("assistant"), this.progress, this.thoughts, text, this.calls, this.actions,
    );
    this.draw();
  }

  draw(isRunning = false) {
    const { answer } = this;
    this.element.classList.toggle("running", isRunning);
    this.#drawProgress(isRunning && !answer.firstAt);
    this.thoughts.hidden = !answer.thoughts;
    if (answer.thoughts) {
      this.summary.textContent = thoughtTime(answer);
      // Nobody reads what is folded, and laying it out costs.
      if (this.thoughts.open || !isRunning) this.thoughtsView.show(answer.thoughts);
    }
    this.view.show(answer.content);
    this.calls.replaceChildren(...answer.calls.map(toolCall));
    this.figures.textContent = figures(answer);
  }

  #drawProgress(isReading) {
    this.progress.hidden = !isReading;
    const { progress } = this.answer;
    this.bar.hidden = !progress;
    if (!progress) {
      this.reading.textContent = "Waiting for the first token\u2026";
      return;
    }
    const cached = progress.cache ? `, ${progress.cache} of them known` : "";
    const rate = progress.time_ms > 0 ? `, ${Math.round(((progress.processed - progress.cache) / progress.time_ms) * 1000)} tokens/s` : "";
    this.reading.textContent = `Reading the prompt: ${progress.processed} of ${progress.total} tokens${cached}${rate}`;
    this.bar.value = progress.total ? progress.processed / progress.total : 0;
  }
}

function toolCall(call) {
  let shown = call.arguments;
  try {
    shown = JSON.stringify(JSON.parse(call.arguments), null, 2);
  } catch {
    // It is still growing.
  }
  return make("div", { className: "call" }, make("div", { className: "bar" }, `Calls ${call.name}`), make("pre", {}, shown));
}
