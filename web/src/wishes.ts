// What a person asked for while something was under way: nothing of it is lost, or done twice.

interface Wish {
  grant: () => void;
  text: string | null; // what was written for it
}

export class Wishes {
  private readonly due = new Map<string, Wish>(); // by name, in the order in which they came

  /** `isFree` tells whether nothing is under way; `giveBack` takes texts that are not sent. */
  constructor(
    private readonly isFree: () => boolean,
    private readonly giveBack: (text: string) => void,
  ) {}

  get isEmpty(): boolean {
    return this.due.size === 0;
  }

  /** Do it now, or as soon as it can be; one wish of a name, the last. */
  ask(name: string, grant: () => void, text: string | null = null): void {
    this.withdraw(name);
    this.due.set(name, { grant, text });
    this.next();
  }

  withdraw(name: string): void {
    const { text = null } = this.due.get(name) ?? {};
    this.due.delete(name);
    if (text !== null) this.giveBack(text);
  }

  /** Something has ended. */
  next(): void {
    for (const [name, { grant }] of this.due) {
      if (!this.isFree()) return;
      this.due.delete(name);
      grant();
    }
  }

  /** What was asked for before something failed, or elsewhere, may mean something else now. */
  clear(): void {
    for (const name of [...this.due.keys()]) this.withdraw(name);
  }
}
