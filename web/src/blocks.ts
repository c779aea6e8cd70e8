// Markdown's blocks while a text grows, by CommonMark's way: a line goes on with the blocks that are
// open, opens others, or ends them. Knows no DOM, and nothing of what stands inside a line.
//
// Each line is read once. The last one, which may not be whole, is read again as it grows, from a
// snapshot of what was open before it; a long one is decided, and only appended to.

import { alignOf, dedent, indentOf, splitRow } from "./lines.ts";

export type Kind =
  | ("root" | "quote" | "list" | "item" | "table") // hold others
  | ("row" | "paragraph" | "heading" | "code" | "math" | "rule");

interface Details {
  level: number; // of a heading, 1 to 6
  start: number | null; // of a numbered list
  marker: string; // how a list's items begin: - + * . )
  indent: number; // of what belongs to an item
  task: "open" | "done" | null; // of an item
  language: string; // of code
  fence: string; // that ends code; empty for indented code
  close: string; // that ends mathematics
  aligns: string[]; // of a table's columns
}

export class Block {
  readonly children: Block[] = [];
  text = "";
  numLines = 0; // of the text
  numSettled = 0; // children that no later text changes

  constructor(
    readonly kind: Kind,
    readonly of: Partial<Details> = {},
  ) {}
}

export interface Reference {
  href: string;
  title: string | null;
}

/** Quotes, lists and items inside one another. What would be deeper is text: every later step may
 * recurse over blocks, and a reader is lost long before. */
export const MAX_DEPTH = 24;
const LONG_LINE = 400; // characters after which a line is what it is
const MAX_MATH = 4_000;

const FENCE = /^(`{3,})([^`]*)$|^(~{3,})(.*)$/;
const ITEM = /^(?:([-+*])|(\d{1,9})([.)]))(?=[ \t]|$)/;
const RULE = /^([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const REFERENCE = /^\[([^\]^][^\]]{0,200})\]:[ \t]+<?([^\s<>]+)>?(?:[ \t]+["'(](.*)["')])?[ \t]*$/;

interface Snapshot {
  open: Block[];
  ends: { length: number; last: Block | undefined }[]; // of the open blocks' children
  leaf: Block | null;
  text: string;
  numLines: number;
  numRows: number;
}

export class BlockParser {
  readonly root = new Block("root");
  readonly references: Record<string, Reference> = {};
  /** Characters of lines that were read: what a longer text costs. */
  numRead = 0;
  private open: Block[] = [this.root]; // from the outermost to the innermost
  private leaf: Block | null = null; // the last child of the innermost, if it may grow
  private line = ""; // the last one, as far as it came
  private before: Snapshot | null = null;
  private isLong = false;

  append(text: string): void {
    const lines = text.split("\n");
    const rest = lines.pop()!;
    for (const line of lines) this.take(line, true);
    if (rest) this.take(rest, false);
  }

  /** Nothing follows. */
  finish(): void {
    if (this.line || this.isLong) this.take("", true);
    this.closeTo(1);
    this.settle();
  }

  private take(piece: string, isWhole: boolean): void {
    this.numRead += piece.length;
    if (this.isLong) {
      this.grown().text += piece;
      if (!isWhole) return;
      this.isLong = false;
      return this.settle();
    }
    this.restore();
    this.numRead += this.line.length;
    this.line += piece;
    if (!isWhole) this.before = this.save();
    this.read(isWhole ? this.line.replace(/\r$/, "") : this.line, isWhole);
    if (isWhole) {
      this.line = "";
      this.settle();
    } else if (this.line.length > LONG_LINE) {
      this.isLong = true;
      this.line = "";
      this.before = null;
    }
  }

  private read(line: string, isWhole: boolean): void {
    let rest = line;
    let depth = 1;
    for (; depth < this.open.length; depth++) {
      const next = continued(this.open[depth]!, rest);
      if (next === null) break;
      rest = next;
    }
    let isMatched = depth === this.open.length;
    if (isMatched && this.leaf !== null && this.goesOn(this.leaf, rest)) return;
    const wasParagraph = this.leaf?.kind === "paragraph";
    for (;;) {
      const started = this.startContainer(rest, depth, isMatched && wasParagraph, isWhole);
      if (started === null) break;
      rest = started;
      depth = this.open.length;
      isMatched = true;
    }
    const isBlank = !rest.trim();
    const isLazy = !isMatched && wasParagraph && this.leaf !== null && !isBlank;
    if (isLazy && !startsLeaf(rest, isWhole)) return addLine(this.leaf!, rest.trimStart());
    if (!isMatched) this.closeTo(depth);
    if (this.innermost.kind === "list" && !isBlank) this.closeTo(this.open.length - 1);
    if (isBlank) this.leaf = null;
    else this.readLeaf(rest, isWhole);
  }

  /** Whether the line `rest` is part of code or mathematics that is open, or ends it. */
  private goesOn(leaf: Block, rest: string): boolean {
    if (leaf.kind === "code") {
      const { fence, indent } = leaf.of;
      if (fence) {
        const isEnd = indentOf(rest) < 4 && rest.trim().startsWith(fence);
        if (isEnd && !rest.trim().replaceAll(fence[0]!, "")) this.leaf = null;
        else addLine(leaf, dedent(rest, indent!));
        return true;
      }
      if (indentOf(rest) < 4 && rest.trim()) {
        leaf.text = leaf.text.trimEnd();
        return false;
      }
      addLine(leaf, dedent(rest, 4));
      return true;
    }
    if (leaf.kind !== "math") return false;
    const end = rest.trimEnd();
    if (end.endsWith(leaf.of.close!)) {
      addLine(leaf, end.slice(0, -leaf.of.close!.length));
      this.leaf = null;
      return true;
    }
    if (rest.trim() && leaf.text.length < MAX_MATH) {
      addLine(leaf, rest);
      return true;
    }
    // It was none: TeX has no empty lines.
    const paragraph = new Block("paragraph");
    addLine(paragraph, (leaf.of.close === "$$" ? "$$" : "\\[") + leaf.text);
    this.replaceLeaf(paragraph);
    return false;
  }

  /** Open a quote or an item that `rest` begins with; what follows its marker, or null. */
  private startContainer(
    rest: string,
    depth: number,
    inParagraph: boolean,
    isWhole: boolean,
  ): string | null {
    const indent = indentOf(rest);
    if (indent > 3 || depth > MAX_DEPTH) return null;
    const text = rest.trimStart();
    if (text.startsWith(">")) {
      this.closeTo(depth);
      if (this.innermost.kind === "list") this.closeTo(depth - 1);
      this.push(new Block("quote"));
      return afterQuote(text);
    }
    const item = ITEM.exec(text);
    if (item === null || (isWhole && RULE.test(text))) return null;
    const [whole, bullet, number, dot] = item;
    const after = text.slice(whole.length);
    if (inParagraph && (!after.trim() || (number !== undefined && Number(number) !== 1))) return null;
    this.closeTo(depth);
    const marker = bullet ?? dot!;
    if (this.innermost.kind === "list" && this.innermost.of.marker !== marker) {
      this.closeTo(depth - 1);
    }
    if (this.innermost.kind !== "list") {
      this.push(new Block("list", { marker, start: number === undefined ? null : Number(number) }));
    }
    const spaces = indentOf(after);
    const gap = !after.trim() || spaces > 4 ? 1 : spaces;
    const content = dedent(after, gap);
    const task = /^\[([ xX])\][ \t]+/.exec(content);
    this.push(
      new Block("item", {
        indent: indent + whole.length + gap,
        task: task && (task[1] === " " ? "open" : "done"),
      }),
    );
    return task ? content.slice(task[0].length) : content;
  }

  private readLeaf(rest: string, isWhole: boolean): void {
    const { leaf } = this;
    const inParagraph = leaf?.kind === "paragraph";
    if (indentOf(rest) > 3 && !inParagraph) {
      return this.add(new Block("code", { fence: "", language: "" }), dedent(rest, 4));
    }
    const text = rest.trim();
    if (inParagraph && isWhole && /^(=+|-+)$/.test(text)) {
      const heading = new Block("heading", { level: text[0] === "=" ? 1 : 2 });
      addLine(heading, leaf.text);
      this.replaceLeaf(heading);
      this.leaf = null;
      return;
    }
    if (this.startLeaf(rest, text, isWhole)) return;
    if (inParagraph && isWhole && this.startTable(leaf, text)) return;
    if (leaf?.kind === "table") {
      const row = new Block("row");
      addLine(row, text);
      leaf.children.push(row);
    } else if (inParagraph) addLine(leaf, rest.trimStart());
    else if (!(isWhole && this.readReference(text))) this.add(new Block("paragraph"), rest.trimStart());
  }

  private startLeaf(rest: string, text: string, isWhole: boolean): boolean {
    const heading = /^(#{1,6})(?:[ \t]+|$)/.exec(text);
    if (heading) {
      const title = text.slice(heading[0].length).replace(/(^|[ \t])#+$/, "");
      this.add(new Block("heading", { level: heading[1]!.length }), title);
      return true;
    }
    const fence = FENCE.exec(text);
    if (fence) {
      const language = (fence[2] ?? fence[4] ?? "").trim().split(/\s/, 1)[0]!;
      const of = { fence: (fence[1] ?? fence[3])!, language, indent: indentOf(rest) };
      this.push(new Block("code", of), true);
      return true;
    }
    const open = /^(?:\$\$|\\\[)/.exec(text)?.[0];
    if (open) {
      const close = open === "$$" ? "$$" : "\\]";
      const inside = text.slice(2);
      const end = inside.indexOf(close);
      if (end >= 0 && end < inside.length - 2) return false; // it ends inside the line: see inlines
      this.add(new Block("math", { close }), end < 0 ? inside : inside.slice(0, end));
      if (end >= 0) this.leaf = null;
      return true;
    }
    if (!isWhole || !RULE.test(text)) return false;
    this.add(new Block("rule"), "");
    this.leaf = null;
    return true;
  }

  /** Whether `line` is what makes a table of the paragraph's last line. */
  private startTable(paragraph: Block, line: string): boolean {
    if (!/^[-:| \t]+$/.test(line) || !line.includes("-")) return false;
    const cells = splitRow(line);
    const lines = paragraph.text.split("\n");
    const head = lines.at(-1)!;
    if (!head.includes("|") && !line.includes("|")) return false;
    if (cells.length !== splitRow(head).length) return false;
    if (!cells.every((cell) => /^:?-+:?$/.test(cell))) return false;
    const table = new Block("table", { aligns: cells.map(alignOf) });
    const row = new Block("row");
    addLine(row, head);
    table.children.push(row);
    if (lines.length === 1) this.replaceLeaf(table);
    else {
      paragraph.text = lines.slice(0, -1).join("\n");
      this.push(table, true);
    }
    return true;
  }

  private readReference(text: string): boolean {
    const found = REFERENCE.exec(text);
    if (found === null) return false;
    const label = found[1]!.toLowerCase().replace(/\s+/g, " ");
    this.references[label] ??= { href: found[2]!, title: found[3] ?? null };
    return true;
  }

  private get innermost(): Block {
    return this.open.at(-1)!;
  }

  private add(leaf: Block, line: string): void {
    this.push(leaf, true);
    addLine(leaf, line);
  }

  private push(block: Block, isLeaf = false): void {
    this.innermost.children.push(block);
    if (isLeaf) this.leaf = block;
    else {
      this.open.push(block);
      this.leaf = null;
    }
  }

  private replaceLeaf(block: Block): void {
    this.innermost.children.pop();
    this.push(block, true);
  }

  private closeTo(depth: number): void {
    this.open.length = depth;
    this.leaf = null;
  }

  /** What more of a long line belongs to. */
  private grown(): Block {
    if (this.leaf === null) this.add(new Block("paragraph"), "");
    return this.leaf!.kind === "table" ? this.leaf!.children.at(-1)! : this.leaf!;
  }

  private settle(): void {
    this.open.forEach((block, k) => {
      const isOpen = k + 1 < this.open.length || this.leaf !== null;
      block.numSettled = block.children.length - (isOpen ? 1 : 0);
    });
    if (this.leaf !== null) this.leaf.numSettled = this.leaf.children.length;
  }

  private save(): Snapshot {
    const { open, leaf } = this;
    return {
      open: [...open],
      ends: open.map(({ children }) => ({ length: children.length, last: children.at(-1) })),
      leaf,
      text: leaf?.text ?? "",
      numLines: leaf?.numLines ?? 0,
      numRows: leaf?.children.length ?? 0,
    };
  }

  private restore(): void {
    if (this.before === null) return;
    const { open, ends, leaf, text, numLines, numRows } = this.before;
    this.before = null;
    this.open = open;
    open.forEach(({ children }, k) => {
      const { length, last } = ends[k]!;
      children.length = length;
      if (last !== undefined) children[length - 1] = last;
    });
    this.leaf = leaf;
    if (leaf === null) return;
    leaf.text = text;
    leaf.numLines = numLines;
    leaf.children.length = numRows;
  }
}

/** `rest` of a line inside the open container, or null where the line does not belong to it. */
function continued(block: Block, rest: string): string | null {
  switch (block.kind) {
    case "quote": {
      const text = rest.trimStart();
      return text.startsWith(">") && indentOf(rest) < 4 ? afterQuote(text) : null;
    }
    case "item":
      if (indentOf(rest) >= block.of.indent!) return dedent(rest, block.of.indent!);
      return rest.trim() ? null : "";
    default:
      return rest;
  }
}

function afterQuote(text: string): string {
  const inside = text.slice(1);
  return inside.startsWith("\t") ? dedent(inside, 1) : inside.replace(/^ /, "");
}

/** Whether a line begins a block that ends a paragraph, other than a quote or an item. */
function startsLeaf(rest: string, isWhole: boolean): boolean {
  const text = rest.trim();
  if (indentOf(rest) > 3) return false;
  return /^#{1,6}(?:[ \t]|$)/.test(text) || FENCE.test(text) || (isWhole && RULE.test(text));
}

function addLine(leaf: Block, line: string): void {
  leaf.text = leaf.numLines === 0 ? line : `${leaf.text}\n${line}`;
  leaf.numLines++;
}
