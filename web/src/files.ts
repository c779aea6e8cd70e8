// Text files that go with a message, as quotations in it.

export interface TextFile {
  name: string;
  text: string;
  numTokens: number | null; // once the server has counted them
}

/** A file that cannot be used, and why. */
export class FileError extends Error {}

const MAX_BYTES = 1_000_000;

/** Raises FileError. */
export async function readText(file: File): Promise<TextFile> {
  if (file.size > MAX_BYTES) {
    throw new FileError(`${file.name} has ${file.size} bytes: files must have <= ${MAX_BYTES}.`);
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (text.includes("\0")) throw new TypeError();
    return { name: file.name, text, numTokens: null };
  } catch {
    throw new FileError(`${file.name} is no text in UTF-8: only such files can be read to the model.`);
  }
}

/** A file as Markdown: its name, and its text behind a fence that it cannot close. */
export function quoted({ name, text }: TextFile): string {
  const runs = text.match(/`+/g) ?? [];
  const fence = "`".repeat(Math.max(3, ...runs.map((run) => run.length + 1)));
  const ending = /\.(\w{1,12})$/.exec(name)?.[1] ?? "";
  return `${name}:\n${fence}${ending}\n${text.replace(/\n$/, "")}\n${fence}`;
}

/** Let the browser save a text. */
export function save(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
