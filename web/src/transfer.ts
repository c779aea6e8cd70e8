// Conversations as files, and back. Knows no DOM.

import type { Api, Conversation, Item } from "./api.ts";
import { FileError } from "./files.ts";
import { textOf, toMessages } from "./message.ts";
import { ROOT, Tree } from "./tree.ts";

interface SavedItem {
  id: string;
  role?: Item["role"];
  text?: string;
  step?: Partial<Item>; // what is no message
  after?: string; // what it follows, if not the item before it
}

interface Saved {
  id: string; // by which `llamastream db import` knows that it is there already
  title: string;
  created_at: number; // seconds since 1970
  items: SavedItem[];
}

const FORMAT = "llamastream conversations 1";
const MAX_ITEMS = 20; // of one request

/** Conversations with all their versions. */
export async function toJson(api: Api, conversations: Conversation[]): Promise<string> {
  const saved: Saved[] = [];
  for (const { id, created_at, metadata } of conversations) {
    const items = (await api.items(id)).map(({ id, after, ...item }) => ({
      id,
      ...(item.role ? { role: item.role, text: textOf([{ id, ...item }]) } : { step: item }),
      ...(after === undefined ? {} : { after }),
    }));
    saved.push({ id, title: metadata.title ?? "", created_at, items });
  }
  return JSON.stringify({ format: FORMAT, conversations: saved }, null, 1);
}

/** One conversation as it is on show. */
export async function toMarkdown(api: Api, { id, metadata }: Conversation): Promise<string> {
  const tree = new Tree();
  tree.add(await api.items(id));
  const { leaf } = metadata;
  const path = tree.path(leaf !== undefined && tree.has(leaf) ? leaf : undefined);
  const parts = toMessages(path).map(({ role, text }) => {
    const who = role === "user" ? "You" : "Answer";
    return `## ${who}\n\n${text}\n`;
  });
  return [`# ${metadata.title ?? "Untitled"}\n`, ...parts].join("\n");
}

/** Add what `toJson` wrote; how many conversations. Raises FileError. */
export async function fromJson(api: Api, json: string): Promise<number> {
  const saved = parse(json);
  for (const { title, items } of saved) {
    const { id } = await api.createConversation({ title: title.slice(0, 200) });
    const ids = new Map<string, string>([[ROOT, ROOT]]); // old to new
    for (const run of runsOf(items)) {
      const after = run[0]!.after;
      const added = await api.addItems(
        id,
        run.map(({ role, text, step }) => step ?? { role: role!, content: text! }),
        after === undefined ? undefined : (ids.get(after) ?? ROOT),
      );
      added.forEach((item, k) => ids.set(run[k]!.id, item.id));
    }
  }
  return saved.length;
}

/** Items that follow one another, as many as one request may hold. */
function runsOf(items: SavedItem[]): SavedItem[][] {
  const runs: SavedItem[][] = [];
  for (const item of items) {
    const last = runs.at(-1);
    if (last && item.after === undefined && last.length < MAX_ITEMS) last.push(item);
    else runs.push([item]);
  }
  return runs;
}

function parse(json: string): Saved[] {
  try {
    const file = JSON.parse(json) as { format: string; conversations: Saved[] };
    if (file.format !== FORMAT) throw new TypeError();
    for (const { title, items } of file.conversations) {
      if (typeof title !== "string") throw new TypeError();
      for (const { id, role, text, step } of items) {
        const fields = typeof step === "object" ? [id] : [id, role, text];
        if (!fields.every((field) => typeof field === "string")) throw new TypeError();
      }
    }
    return file.conversations;
  } catch {
    throw new FileError("This is no file of exported conversations: choose one that this page saved.");
  }
}
