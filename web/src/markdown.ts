// Markdown to elements, while it is still being written.
//
// Only elements made here reach the page: HTML in the text is shown as the text it is, links lead
// to http, https and mailto only, and images are links, since fetching one would tell others.

import { Lexer, type Token, type Tokens } from "marked";
import { copyButton, el } from "./dom.ts";

const ENTITIES: Record<string, string> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
};

/** A text that grows: what is already there stays as it is, with the reader's selection. */
export class MarkdownView {
  readonly element = el("div", { class: "markdown" });
  private blocks: { raw: string; node: Node }[] = [];

  update(text: string): void {
    const tokens = new Lexer({ gfm: true }).lex(text);
    let same = 0;
    while (same < this.blocks.length && this.blocks[same]!.raw === tokens[same]?.raw) same++;
    for (const { node } of this.blocks.splice(same)) this.element.removeChild(node);
    for (const token of tokens.slice(same)) {
      const node = block(token);
      this.element.append(node);
      this.blocks.push({ raw: token.raw, node });
    }
  }
}

function block(token: Token): Node {
  switch (token.type) {
    case "heading":
      // Below the page's own headings.
      return el(`h${Math.min(token["depth"] + 2, 6)}` as "h3", {}, ...inlines(token.tokens));
    case "paragraph":
      return el("p", {}, ...inlines(token.tokens));
    case "code":
      return codeBlock(token as Tokens.Code);
    case "blockquote":
      return el("blockquote", {}, ...(token.tokens ?? []).map(block));
    case "list":
      return list(token as Tokens.List);
    case "table":
      return table(token as Tokens.Table);
    case "hr":
      return el("hr");
    case "text": // of a tight list's item
      return fragment(token.tokens ? inlines(token.tokens) : [unescape(token["text"])]);
    case "html":
      return el("p", {}, token.raw.trim());
    case "space":
    case "def":
    case "checkbox": // the list draws it
      return document.createTextNode("");
    default:
      return fragment([inline(token)]);
  }
}

function codeBlock({ text, lang }: Tokens.Code): HTMLElement {
  const name = (lang ?? "").split(/\s/, 1)[0]!;
  const head = el("div", { class: "code-head" }, el("span", {}, name));
  head.append(copyButton(() => text, "Copy code"));
  const code = el("pre", { tabindex: "0" }, el("code", {}, text));
  return el("div", { class: "code" }, head, code);
}

function list({ ordered, start, items }: Tokens.List): HTMLElement {
  const rows = items.map((item) => {
    const row = el("li", {}, ...item.tokens.map(block));
    if (item.task) row.prepend(item.checked ? "☑ " : "☐ ");
    return row;
  });
  return ordered ? el("ol", { start: String(start || 1) }, ...rows) : el("ul", {}, ...rows);
}

function table({ header, rows }: Tokens.Table): HTMLElement {
  const row = (tag: "th" | "td") => (cells: Tokens.TableCell[]) =>
    el("tr", {}, ...cells.map((c) => el(tag, { class: c.align ?? "left" }, ...inlines(c.tokens))));
  const head = el("thead", {}, row("th")(header));
  const body = el("tbody", {}, ...rows.map(row("td")));
  return el("div", { class: "table", tabindex: "0" }, el("table", {}, head, body));
}

function inlines(tokens: Token[] | undefined): (Node | string)[] {
  return (tokens ?? []).map(inline);
}

function inline(token: Token): Node | string {
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return el(token.type, {}, ...inlines(token.tokens));
    case "codespan":
      return el("code", {}, token["text"]);
    case "br":
      return el("br");
    case "link":
      return link(token["href"], inlines(token.tokens));
    case "image":
      return link(token["href"], [token["text"] || token["href"]]);
    case "escape":
      return token["text"];
    case "text":
      return token.tokens ? fragment(inlines(token.tokens)) : unescape(token["text"]);
    default:
      return token.raw; // HTML, and whatever else: as it was written
  }
}

function link(href: string, children: (Node | string)[]): Node {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return fragment(children);
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/** Markdown allows HTML's names for characters; these few are all that models write. */
function unescape(text: string): string {
  return text.replace(/&(?:(\w+)|#(\d{1,6})|#x([\da-f]{1,5}));/gi, (whole, name, decimal, hex) => {
    if (name) return ENTITIES[name] ?? whole;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 31 && code < 0x110000 ? String.fromCodePoint(code) : whole;
  });
}

function fragment(children: (Node | string)[]): Node {
  const span = el("span");
  span.append(...children);
  return span;
}
