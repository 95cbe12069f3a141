// Markdown as elements: marked reads it, and each of its tokens becomes an element made here. HTML in it is
// shown as text, and pictures as links, since they would be fetched from elsewhere.

import { lexer } from "./vendor/marked/marked.esm.js";
import { copyButton, make } from "./dom.js";
import { colour } from "./highlight.js";

const SAFE_LINK = /^(https?|mailto):/i;
const ENTITY = /&(#\d{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot|apos|nbsp);/gi;
const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Shows a text that grows: blocks that stay the same keep their elements, so that selections live. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.shown = [];
  }

  show(text) {
    const tokens = lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < tokens.length && tokens[same].raw === this.shown[same]) same += 1;
    while (this.element.children.length > same) this.element.lastChild.remove();
    this.element.append(...tokens.slice(same).map(block));
    this.shown = tokens.map((token) => token.raw);
  }
}

function block(token) {
  switch (token.type) {
    case "heading":
      return make(`h${Math.min(6, token.depth + 2)}`, {}, ...inline(token.tokens));
    case "paragraph":
      return make("p", {}, ...inline(token.tokens));
    case "code":
      return code(token);
    case "blockquote":
      return make("blockquote", {}, ...blocks(token.tokens));
    case "list":
      return list(token);
    case "table":
      return table(token);
    case "hr":
      return make("hr");
    default:
      return make("p", {}, ...(token.tokens ? inline(token.tokens) : [token.raw]));
  }
}

const blocks = (tokens) => tokens.filter((token) => token.type !== "space" && token.type !== "def").map(block);

function code(token) {
  const shown = make("code", {}, token.text);
  const language = (token.lang ?? "").match(/^\S*/)[0];
  colour(shown, language).catch(() => {});
  const bar = make("div", { className: "bar" }, make("span", {}, language), copyButton(() => token.text));
  return make("div", { className: "code" }, bar, make("pre", {}, shown));
}

function list(token) {
  const made = make(token.ordered ? "ol" : "ul");
  if (token.ordered && token.start !== 1) made.start = token.start;
  made.append(...token.items.map((item) => make("li", {}, ...item.tokens.flatMap(item.loose ? looseItem : tightItem))));
  return made;
}

function looseItem(token) {
  return token.type === "text" ? [make("p", {}, ...inline(token.tokens))] : tightItem(token);
}

function tightItem(token) {
  if (token.type === "space" || token.type === "def") return [];
  if (token.type === "checkbox") return inline([token]);
  return token.type === "text" ? inline(token.tokens ?? [token]) : [block(token)];
}

function table(token) {
  const row = (tag, cells) =>
    make("tr", {}, ...cells.map((cell) => make(tag, { className: cell.align ?? "" }, ...inline(cell.tokens))));
  const head = make("thead", {}, row("th", token.header));
  const body = make("tbody", {}, ...token.rows.map((cells) => row("td", cells)));
  return make("div", { className: "table" }, make("table", {}, head, body));
}

function inline(tokens) {
  return tokens.map((token) => {
    switch (token.type) {
      case "strong":
      case "em":
      case "del":
        return make(token.type, {}, ...inline(token.tokens));
      case "codespan":
        return make("code", {}, token.text);
      case "br":
        return make("br");
      case "link":
        return link(token.href, inline(token.tokens), token.raw);
      case "image":
        return link(token.href, [token.text || token.href], token.raw);
      case "checkbox":
        return make("input", { type: "checkbox", checked: token.checked, disabled: true });
      case "escape":
        return token.text;
      case "html":
        return token.raw;
      default:
        return token.tokens ? make("span", {}, ...inline(token.tokens)) : decoded(token.text ?? token.raw);
    }
  });
}

function link(href, content, raw) {
  if (!SAFE_LINK.test(href)) return raw;
  return make("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...content);
}

function decoded(text) {
  return text.replace(ENTITY, (whole, name) => {
    if (name[0] !== "#") return NAMED[name.toLowerCase()] ?? whole;
    const number = name[1].toLowerCase() === "x" ? parseInt(name.slice(2), 16) : Number(name.slice(1));
    return number > 0 && number <= 0x10ffff ? String.fromCodePoint(number) : whole;
  });
}
