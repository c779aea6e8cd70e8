// Markdown to elements, while it is still being written: what stands is not read or drawn again.
//
// Only elements made here reach the page: HTML in the text is shown as the text it is, links lead
// to http, https and mailto only, and images are links, since fetching one would tell others.

import type { Token, Tokens } from "marked";
import { Block, BlockParser } from "./blocks.ts";
import { CodeView } from "./code.ts";
import { el } from "./dom.ts";
import { GrowingTokens, InlineReader } from "./inlines.ts";
import { formula } from "./formula.ts";
import { splitRow } from "./lines.ts";

const ENTITIES: Record<string, string> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
};

const MAX_AT_ONCE = 10_000; // characters
const GROUP = 32; // blocks: what holds them all lays out those of the last group, and groups
const BESIDE = new Set(["list", "quote"]); // blocks with marks beside their text
const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

/** The same characters, and nothing of a longer text that an engine would keep for a part of it. */
function copyOf(text: string): string {
  return ` ${text}`.slice(1);
}

/** What shows a block. */
interface View {
  readonly block: Block;
  readonly node: HTMLElement;
  /** Show the block as it is by now. */
  draw(): void;
  /** Nothing more will come. */
  close(): void;
}

/** A text that grows: what is already there stays as it is, with the reader's selection. */
export class MarkdownView {
  readonly element = el("div", { class: "markdown" });
  private shown = "";
  private parser = new BlockParser();
  private view = this.start();
  private isFinished = false;

  /** Show more of `text`, as much as takes a few milliseconds; whether that is all. */
  update(text: string): boolean {
    if (text === this.shown) return true;
    if (this.isFinished || !text.startsWith(this.shown)) {
      this.parser = new BlockParser();
      this.element.replaceChildren();
      this.view = this.start();
      this.shown = "";
      this.isFinished = false;
    }
    const { length } = this.shown;
    this.parser.append(copyOf(text.slice(length, length + MAX_AT_ONCE)));
    this.shown = text.slice(0, length + MAX_AT_ONCE);
    this.view.draw();
    return this.shown.length === text.length;
  }

  /** Nothing follows. */
  finish(): void {
    if (this.isFinished) return;
    this.isFinished = true;
    this.parser.finish();
    this.view.draw();
    this.view.close();
  }

  private start(): Container {
    const { root, references } = this.parser;
    return new Container(root, this.element, new InlineReader(references), this.element, true);
  }
}

/** A block of blocks. Of those that no later text changes it keeps nothing but their elements. */
class Container implements View {
  private views: View[] = []; // of the children from `first` on
  private first = 0;
  private numClosed = 0;

  constructor(
    readonly block: Block,
    readonly node: HTMLElement,
    private readonly reader: InlineReader,
    private readonly place = node, // of the children
    private readonly isGrouped = false,
  ) {}

  draw(): void {
    const children = this.block.children.slice(this.first);
    let same = 0;
    while (same < this.views.length && this.views[same]!.block === children[same]) same++;
    for (const view of this.views.splice(same)) view.node.remove();
    this.numClosed = Math.min(this.numClosed, this.first + same);
    children.forEach((child, k) => (this.views[k] ??= this.append(child, this.first + k)).draw());
    this.closeTo(this.block.children.length - 1);
    const next = Math.min(this.block.numSettled, this.numClosed);
    this.views = this.views.slice(next - this.first);
    this.first = next;
    if (BESIDE.has(this.block.kind) && !this.node.dir) this.turn();
  }

  close(): void {
    this.closeTo(this.block.children.length);
  }

  private closeTo(end: number): void {
    for (; this.numClosed < end; this.numClosed++) this.views[this.numClosed - this.first]!.close();
  }

  /** Marks stand where the first letter begins its line. */
  private turn(): void {
    const letter = /\p{L}/u.exec(this.node.textContent!)?.[0];
    if (letter !== undefined) this.node.dir = RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr";
  }

  private append(block: Block, k: number): View {
    const view = viewOf(block, this.reader, this.block);
    if (this.isGrouped && k % GROUP === 0 && k / GROUP === this.place.childElementCount) {
      this.place.append(el("div"));
    }
    const place = this.isGrouped ? this.place.lastElementChild! : this.place;
    place.append(view.node);
    return view;
  }
}

function viewOf(block: Block, reader: InlineReader, parent: Block): View {
  const { start, level, task } = block.of;
  switch (block.kind) {
    case "quote":
      return new Container(block, el("blockquote"), reader);
    case "list":
      return new Container(
        block,
        start === null ? el("ul") : el("ol", { start: String(start) }),
        reader,
      );
    case "item": {
      const item = el("li", {}, ...(task ? [task === "done" ? "☑ " : "☐ "] : []));
      if (task) item.className = "task";
      return new Container(block, item, reader);
    }
    case "table": {
      const body = el("tbody");
      const node = el("div", { class: "table", tabindex: "0" }, el("table", {}, body));
      return new Container(block, node, reader, body);
    }
    case "row":
      return new RowView(block, reader, parent);
    case "code":
      return new CodeView(block);
    case "math":
      return new FormulaView(block);
    case "rule":
      return new TextView(block, el("hr"), reader);
    case "heading": // below the page's own headings
      return new TextView(block, el(`h${Math.min(level! + 2, 6)}` as "h3"), reader);
    default:
      return new TextView(block, el("p"), reader);
  }
}

/** Lines with what stands inside them. */
class TextView implements View {
  private tokens: GrowingTokens;
  private shown = "";
  private nodes: { raw: string; node: Node }[] = [];

  constructor(
    readonly block: Block,
    readonly node: HTMLElement,
    private readonly reader: InlineReader,
  ) {
    node.setAttribute("dir", "auto");
    this.tokens = new GrowingTokens(reader);
  }

  draw(): void {
    const { text } = this.block;
    if (text === this.shown) return;
    if (!text.startsWith(this.shown)) this.clear();
    this.shown = text;
    let same = this.tokens.numSettled;
    this.tokens.update(text);
    const { tokens } = this.tokens;
    while (same < this.nodes.length && this.nodes[same]!.raw === tokens[same]?.raw) same++;
    if (this.grow(same)) same++;
    for (const { node } of this.nodes.splice(same)) this.node.removeChild(node);
    for (const token of tokens.slice(same)) {
      const node = inline(token);
      this.node.append(node);
      this.nodes.push({ raw: token.raw, node });
    }
  }

  close(): void {}

  /** Whether token `k` is text that has only become longer: its node stays. */
  private grow(k: number): boolean {
    const drawn = this.nodes[k];
    const token = this.tokens.tokens[k];
    if (!drawn || token?.type !== "text" || !(drawn.node instanceof Text)) return false;
    const words = unescape(token["text"]);
    if (!words.startsWith(drawn.node.data)) return false;
    drawn.node.appendData(words.slice(drawn.node.data.length));
    drawn.raw = token.raw;
    return true;
  }

  private clear(): void {
    this.tokens = new GrowingTokens(this.reader);
    this.nodes = [];
    this.node.replaceChildren();
  }
}

const MAX_ROW = 2_000; // characters that are read as cells: the rest is text of the last one

class RowView implements View {
  readonly node = el("tr");
  private shown = "";

  constructor(
    readonly block: Block,
    private readonly reader: InlineReader,
    private readonly table: Block,
  ) {}

  draw(): void {
    const { text } = this.block;
    const isLong = text.length > MAX_ROW && this.shown.length > MAX_ROW;
    if (isLong) this.node.lastElementChild!.append(text.slice(this.shown.length));
    else if (text !== this.shown) this.fill(text);
    this.shown = text;
  }

  close(): void {}

  private fill(text: string): void {
    const aligns = this.table.of.aligns!;
    const tag = this.table.children[0] === this.block ? "th" : "td";
    const cells = splitRow(text.slice(0, MAX_ROW)).slice(0, aligns.length);
    this.node.replaceChildren(
      ...aligns.map((align, k) =>
        el(tag, { class: align, dir: "auto" }, ...this.reader.read(cells[k] ?? "").map(inline)),
      ),
    );
    this.node.lastElementChild!.append(text.slice(MAX_ROW));
  }
}

class FormulaView implements View {
  readonly node = el("div", { class: "formula", tabindex: "0" });
  private shown = "";

  constructor(readonly block: Block) {}

  draw(): void {
    if (this.block.text === this.shown) return;
    this.shown = this.block.text;
    this.node.textContent = this.shown;
  }

  close(): void {
    this.node.replaceChildren(formula(this.shown.trim(), true));
  }
}

function inlines(tokens: Token[] | undefined): (Node | string)[] {
  return (tokens ?? []).map(inline);
}

function inline(token: Token): Node {
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return el(token.type, {}, ...inlines(token.tokens));
    case "codespan":
      return el("code", { dir: "ltr" }, token["text"]);
    case "br":
      return el("br");
    case "link":
      return link(token["href"], inlines((token as Tokens.Link).tokens));
    case "image":
      return link(token["href"], [token["text"] || token["href"]]);
    case "math":
      return formula(token["text"], token["isDisplay"]);
    case "footnote":
      return el("sup", {}, token["text"]);
    case "escape":
      return document.createTextNode(token["text"]);
    case "text":
      if (token.tokens) return fragment(inlines(token.tokens));
      return document.createTextNode(unescape(token["text"]));
    default:
      return document.createTextNode(token.raw); // HTML, and whatever else: as it was written
  }
}

function link(href: string, children: (Node | string)[]): Node {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return fragment(children);
  const props = { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href };
  return el("a", props, ...children);
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
