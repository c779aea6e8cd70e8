import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { Lexer, type Token, type Tokens } from "marked";
import { Block, BlockParser, MAX_DEPTH } from "../src/blocks.ts";
import { splitRow } from "../src/lines.ts";

type Tree = [string, ...(Tree | string)[]];

function parse(text: string, size = text.length || 1): BlockParser {
  const parser = new BlockParser();
  for (let k = 0; k < text.length; k += size) parser.append(text.slice(k, k + size));
  parser.finish();
  return parser;
}

function tree(block: Block): Tree {
  if (block.kind === "row") return ["row", ...splitRow(block.text)];
  const inside = block.children.map(tree);
  return inside.length > 0 || !block.text ? [block.kind, ...inside] : [block.kind, block.text];
}

/** What marked makes of the same. */
function expected(tokens: Token[]): Tree[] {
  return tokens.flatMap((token): Tree[] => {
    switch (token.type) {
      case "space":
      case "def":
      case "checkbox":
        return [];
      case "blockquote":
        return [["quote", ...expected(token.tokens!)]];
      case "list":
        return [["list", ...(token as Tokens.List).items.map(itemOf)]];
      case "table": {
        const { header, rows } = token as Tokens.Table;
        return [["table", ...[header, ...rows].map(rowOf)]];
      }
      case "hr":
        return [["rule"]];
      case "code":
      case "heading":
        return [token["text"] ? [token.type, token["text"]] : [token.type]];
      default:
        return [["paragraph", token.raw.trim().replace(/\n[ \t]+/g, "\n")]];
    }
  });
}

const itemOf = ({ tokens }: Tokens.ListItem): Tree => ["item", ...expected(tokens)];
const rowOf = (cells: Tokens.TableCell[]): Tree => ["row", ...cells.map(({ text }) => text)];

const DOCS = new URL("../../../docs/", import.meta.url);
const SAMPLE = `Intro with *words*
and a second line

> quoted
lazily
> - in a list
>
>   and more

1. one
   - nested

     \`\`\`py
     print("hi")

     print("there")
     \`\`\`
2. two
- [x] done
- [ ] not
* other

Head | er
--- | :-:
a \\| b | c
d |

Title
===
Another
---
### Third ###
***
    indented

    code
<div>*plain*</div>

$$
a + b
$$
\\[ c \\]
~~~
open`;

test("documents are read as marked reads them", () => {
  for (const name of readdirSync(DOCS).filter((name) => name.endsWith(".md"))) {
    if (name === "LOG.md") continue; // larger than all others
    const text = readFileSync(new URL(name, DOCS), "utf8");
    const [, ...ours] = tree(parse(text).root);
    assert.deepEqual(ours, expected(new Lexer({ gfm: true }).lex(text)), name);
  }
});

test("however a text was cut, it becomes the same blocks", () => {
  const whole = tree(parse(SAMPLE).root);
  for (let size = 1; size < 40; size++) assert.deepEqual(tree(parse(SAMPLE, size).root), whole);
});

test("each kind of block", () => {
  assert.deepEqual(tree(parse(SAMPLE).root), [
    "root",
    ["paragraph", "Intro with *words*\nand a second line"],
    [
      "quote",
      ["paragraph", "quoted\nlazily"],
      ["list", ["item", ["paragraph", "in a list"], ["paragraph", "and more"]]],
    ],
    [
      "list",
      [
        "item",
        ["paragraph", "one"],
        [
          "list",
          ["item", ["paragraph", "nested"], ["code", 'print("hi")\n\nprint("there")']],
        ],
      ],
      ["item", ["paragraph", "two"]],
    ],
    ["list", ["item", ["paragraph", "done"]], ["item", ["paragraph", "not"]]],
    ["list", ["item", ["paragraph", "other"]]],
    ["table", ["row", "Head", "er"], ["row", "a | b", "c"], ["row", "d"]],
    ["heading", "Title"],
    ["heading", "Another"],
    ["heading", "Third"],
    ["rule"],
    ["code", "indented\n\ncode"],
    ["paragraph", "<div>*plain*</div>"],
    ["math", "\na + b\n"],
    ["math", " c "],
    ["code", "open"],
  ]);
});

test("what stands is settled, and no later text changes it", () => {
  const parser = new BlockParser();
  const settled: string[] = [];
  for (const char of SAMPLE) {
    parser.append(char);
    const now = parser.root.children.slice(0, parser.root.numSettled).map((b) => JSON.stringify(b));
    assert.deepEqual(now.slice(0, settled.length), settled);
    settled.push(...now.slice(settled.length));
  }
  assert.ok(settled.length > 8);
});

test("a dollar sign that opens no mathematics is text again", () => {
  assert.deepEqual(tree(parse("$$ and more\nlines\n\nnext", 3).root), [
    "root",
    ["paragraph", "$$ and more\nlines"],
    ["paragraph", "next"],
  ]);
});

test("references are found, and not shown", () => {
  const parser = parse("[The Label]: https://example.org 'title'\n\nsee [the label]", 4);
  assert.deepEqual(parser.references, {
    "the label": { href: "https://example.org", title: "title" },
  });
  assert.equal(parser.root.children.length, 1);
});

function depthOf(block: Block): number {
  return 1 + Math.max(0, ...block.children.map(depthOf));
}

const DEEP: Record<string, string> = {
  quotes: ">".repeat(5_000) + " end",
  items: "- ".repeat(5_000) + "end",
  "lists, line by line": Array.from({ length: 500 }, (_, k) => `${"  ".repeat(k)}- x`).join("\n"),
  both: "> - ".repeat(5_000) + "end",
};

for (const [name, text] of Object.entries(DEEP)) {
  test(`nesting has an end: ${name}`, () => {
    const { root, numRead } = parse(text, 7);
    assert.ok(depthOf(root) <= MAX_DEPTH + 4);
    assert.ok(JSON.stringify(root).includes(name.startsWith("lists") ? "- x" : "end"));
    assert.ok(numRead < 150 * text.length); // each line again for each piece of it, up to its limit
  });
}

test("a longer answer costs no more for each token", () => {
  const costs = [1_000, 10_000].map((num) => {
    const parser = new BlockParser();
    for (let k = 0; k < num; k++) parser.append(k % 97 ? "word " : "- item\n\n```\ncode\n```\n| a |\n");
    return parser.numRead / num;
  });
  assert.ok(costs[1]! < costs[0]! * 1.05, String(costs));
  const line = new BlockParser();
  for (let k = 0; k < 20_000; k++) line.append("a long one ");
  assert.ok(line.numRead < 1.1 * 220_000);
});
