// What stands inside a line of Markdown, as marked reads it, while its text grows. Knows no DOM.
//
// Bounds, from which all costs follow: a piece of so many characters is read at a time; what is nested
// deeper than so many levels is text, and so is what is nested in a piece that was read too often.

import { Lexer, Marked, type Token, type Tokens } from "marked";
import type { Reference } from "./blocks.ts";

const PIECE = 1_000; // characters that are read again as a text grows
const MAX_MARKS = 80; // characters of a piece that may mean something: pairing them is what costs
const MAX_AGAIN = 10; // times that the characters of a piece are read inside others
const MAX_DEPTH = 12; // emphasis, links and the like inside one another

const FORMULAS: [open: string, close: string, isDisplay: boolean][] = [
  ["$$", "$$", true],
  ["\\[", "\\]", true],
  ["\\(", "\\)", false],
];
// By pandoc's rule, so that prices are none: no space inside the dollars, no digit behind.
const DOLLARS = /^\$((?:\\[^\n]|[^$\\\n]){1,1000})\$(?!\d)/;

const marked = new Marked({
  gfm: true,
  extensions: [
    {
      name: "math",
      level: "inline",
      start: (source) => source.search(/\$|\\[[(]/),
      tokenizer: (source) => formula(source),
    },
    {
      name: "footnote", // a note stands where it was written, behind the same mark
      level: "inline",
      start: (source) => source.search(/\[\^\d/),
      tokenizer: (source) => footnote(source),
    },
  ],
});

class BoundedLexer extends Lexer {
  private depth = 0;
  private left = 0; // characters that may be read

  override inlineTokens(source: string, tokens: Token[] = []): Token[] {
    if (this.depth === 0) this.left = source.length * MAX_AGAIN;
    this.left -= source.length;
    if (this.depth >= MAX_DEPTH || this.left < 0) {
      tokens.push({ type: "text", raw: source, text: source, escaped: false });
      return tokens;
    }
    this.depth++;
    try {
      return super.inlineTokens(source, tokens);
    } finally {
      this.depth--;
    }
  }
}

/** Reads lines of one document, which has `references`. */
export class InlineReader {
  /** Characters that were read: what a longer text costs. */
  numRead = 0;
  private readonly lexer = new BoundedLexer({ ...marked.defaults, tokenizer: null });

  constructor(references: Record<string, Reference>) {
    this.lexer.tokens.links = references as typeof this.lexer.tokens.links;
  }

  read(text: string): Token[] {
    this.numRead += text.length;
    return this.lexer.inlineTokens(text);
  }
}

/** The tokens of a text that grows. The first `numSettled` stay as they are. */
export class GrowingTokens {
  tokens: Token[] = [];
  numSettled = 0;
  private start = 0; // of what is not settled

  constructor(private readonly reader: InlineReader) {}

  /** `text` begins with what it was before. */
  update(text: string): void {
    for (;;) {
      const end = pieceEnd(text, this.start);
      const fresh = this.reader.read(text.slice(this.start, end));
      this.tokens.length = this.numSettled;
      this.tokens.push(...fresh);
      if (end === text.length) return;
      const whole = fresh.length > 1 ? fresh.slice(0, -1) : [halfOf(fresh[0]!)];
      this.tokens.splice(this.numSettled, fresh.length, ...whole);
      this.start += whole.reduce((length, { raw }) => length + raw.length, 0);
      this.numSettled += whole.length;
    }
  }
}

/** Of plain text the first half, since something may begin in the other. */
function halfOf(token: Token): Token {
  if (token.type !== "text" || token.raw !== token["text"]) return token;
  const space = token.raw.lastIndexOf(" ", token.raw.length / 2);
  const raw = token.raw.slice(0, space > 0 ? space : cutBefore(token.raw, token.raw.length / 2));
  return { ...token, raw, text: raw };
}

function pieceEnd(text: string, start: number): number {
  const end = cutBefore(text, start + PIECE);
  let num = 0;
  for (const { index } of text.slice(start, end).matchAll(/[*_~`[<$\\]/g)) {
    if (++num > MAX_MARKS) return start + index;
  }
  return end;
}

/** At most `end`, and not between the halves of a character. */
function cutBefore(text: string, end: number): number {
  if (end >= text.length) return text.length;
  const isHigh = (text.charCodeAt(end - 1) & 0xfc00) === 0xd800;
  return isHigh ? end - 1 : end;
}

function footnote(source: string): Tokens.Generic | undefined {
  const found = /^\[\^(\d{1,3})\]:?/.exec(source);
  return found ? { type: "footnote", raw: found[0], text: found[1]! } : undefined;
}

function formula(source: string): Tokens.Generic | undefined {
  for (const [open, close, isDisplay] of FORMULAS) {
    if (!source.startsWith(open)) continue;
    const end = source.indexOf(close, 2);
    if (end < 3) return undefined;
    return { type: "math", raw: source.slice(0, end + 2), text: source.slice(2, end), isDisplay };
  }
  const found = DOLLARS.exec(source);
  if (found === null || /^\s|\s$/.test(found[1]!)) return undefined;
  return { type: "math", raw: found[0], text: found[1]!, isDisplay: false };
}
