// Lines of Markdown: their white space, and the cells of a table's row.

/** The cells of a table's row. A pipe behind a backslash is text. */
export function splitRow(line: string): string[] {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

export function alignOf(cell: string): string {
  if (!cell.endsWith(":")) return "left";
  return cell.startsWith(":") ? "center" : "right";
}

/** Columns of white space at the start. */
export function indentOf(line: string): number {
  let columns = 0;
  for (const char of line) {
    if (char === " ") columns++;
    else if (char === "\t") columns += 4 - (columns % 4);
    else break;
  }
  return columns;
}

/** `line` without its first `columns` of white space, or without less where there is less. */
export function dedent(line: string, columns: number): string {
  let k = 0;
  let column = 0;
  for (; column < columns; k++) {
    if (line[k] === " ") column++;
    else if (line[k] === "\t") column += 4 - (column % 4);
    else break;
  }
  return " ".repeat(Math.max(0, column - columns)) + line.slice(k);
}
