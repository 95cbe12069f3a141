// Colours for code: highlight.js says which words are what, and loads a language when one is met.

import highlighter from "./vendor/highlight/core.min.js";
import { make } from "./dom.js";

const LANGUAGES = new Set(
  "bash c cpp csharp css diff dockerfile go ini java javascript json kotlin lua makefile markdown php powershell python r ruby rust sql swift typescript xml yaml".split(" "),
);
const OTHER_NAMES = {
  "c++": "cpp", "c#": "csharp", cs: "csharp", docker: "dockerfile", golang: "go", h: "c", hpp: "cpp", html: "xml", js: "javascript",
  jsx: "javascript", kt: "kotlin", make: "makefile", md: "markdown", mjs: "javascript", ps1: "powershell", py: "python", rb: "ruby",
  rs: "rust", sh: "bash", shell: "bash", console: "bash", toml: "ini", ts: "typescript", tsx: "typescript", yml: "yaml", zsh: "bash",
};
// Longer code stays plain: colouring it would hold the page up.
const MOST_CHARACTERS = 20000;

const loading = new Map();

function load(name) {
  if (!loading.has(name)) {
    const grammar = import(`./vendor/highlight/languages/${name}.min.js`);
    loading.set(name, grammar.then((module) => highlighter.registerLanguage(name, module.default)));
  }
  return loading.get(name);
}

/** Colour what is in `element`; it stays plain where the language isn't known. */
export async function colour(element, language) {
  const wanted = language.toLowerCase();
  const name = OTHER_NAMES[wanted] ?? wanted;
  const code = element.textContent;
  if (!LANGUAGES.has(name) || code.length > MOST_CHARACTERS) return;
  await load(name);
  const tree = highlighter.highlight(code, { language: name, ignoreIllegals: true })._emitter?.rootNode;
  if (tree && element.textContent === code) element.replaceChildren(...tree.children.map(node));
}

function node(part) {
  if (typeof part === "string") return part;
  const className = part.scope ? part.scope.split(".").map((word, i) => (i ? `${word}_` : `hljs-${word}`)).join(" ") : "";
  return make("span", { className }, ...part.children.map(node));
}
