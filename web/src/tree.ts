// A conversation as a tree: an item follows the one before it in the list, or another that it names.

import type { Item } from "./api.ts";

export const ROOT = "root";

export class Tree {
  readonly items: Item[] = []; // in the order they were added
  private readonly places = new Map<string, number>();
  private readonly children = new Map<string, string[]>(); // by what they follow

  add(items: Item[]): void {
    for (const item of items) {
      if (this.places.has(item.id)) continue;
      const parent = item.after ?? this.items.at(-1)?.id ?? ROOT;
      this.places.set(item.id, this.items.length);
      this.items.push(item);
      const siblings = this.children.get(parent);
      if (siblings) siblings.push(item.id);
      else this.children.set(parent, [item.id]);
    }
  }

  has(id: string): boolean {
    return this.places.has(id);
  }

  /** What `id` follows: an item's id, or ROOT. */
  parent(id: string): string {
    const place = this.places.get(id)!;
    const { after } = this.items[place]!;
    return after ?? this.items[place - 1]?.id ?? ROOT;
  }

  /** The items on the way to `leaf`, or to the newest of all. */
  path(leaf: string | undefined = this.items.at(-1)?.id): Item[] {
    const path: Item[] = [];
    for (let id = leaf ?? ROOT; this.has(id); id = this.parent(id)) {
      path.push(this.items[this.places.get(id)!]!);
    }
    return path.reverse();
  }

  /** What was said in the place of `id`, itself among it, oldest first. */
  versions(id: string): string[] {
    return this.has(id) ? this.children.get(this.parent(id))! : [id];
  }

  /** Where one comes from `id` by taking the newest version each time. */
  leafOf(id: string): string {
    for (;;) {
      const next = this.children.get(id)?.at(-1);
      if (next === undefined) return id;
      id = next;
    }
  }
}
