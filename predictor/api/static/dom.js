// Elements made from text. Nothing here or elsewhere on the page turns text into HTML.

export const byId = (id) => document.getElementById(id);

/**
 * An element with properties and content.
 * @param {string} tag
 * @param {object} [properties] such as {className, type, onclick}
 * @param {...(Node|string|null)} content null is left out
 */
export function make(tag, properties = {}, ...content) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content.filter((part) => part !== null));
  return made;
}

export function button(label, onclick, className = "quiet") {
  return make("button", { type: "button", className, onclick }, label);
}

/** Copy text; over plain HTTP browsers have no clipboard, but still know the old command. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, className: "unseen" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A button that copies what `text()` gives, and says so for a moment. */
export function copyButton(text) {
  const made = button("Copy", async () => {
    await copy(text());
    made.textContent = "Copied";
    setTimeout(() => (made.textContent = "Copy"), 1500);
  });
  return made;
}
