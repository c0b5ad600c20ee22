/** Tables for terminals: columns as wide as they have to be, in a box. */

/** What stands in a column, of one line or several, or over several columns. */
export type Cell = string | number | { readonly span: number; readonly content: string };

/** The table as text; every row has a cell for each column of the head. */
export function boxTable(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const widths = head.map((text) => text.length);
  const lines = rows.map((row) =>
    row.map((cell) => (typeof cell === "object" ? cell.content : String(cell)).split("\n"))
  );
  rows.forEach((row, r) => {
    for (let cell = 0, column = 0; cell < row.length; column += spanOf(row[cell++]!)) {
      const width = longest(lines[r]![cell]!), span = spanOf(row[cell]!);
      // What spans columns widens the last of them, if it must.
      const missing = width - widths.slice(column, column + span).reduce((a, b) => a + b + 3, -3);
      if (missing > 0) widths[column + span - 1]! += missing;
    }
  });
  const rule = (left: string, cross: string, right: string) =>
    left + widths.map((width) => "─".repeat(width + 2)).join(cross) + right;
  const draw = (row: readonly Cell[], texts: readonly (readonly string[])[]) => {
    const out: string[] = [];
    for (let line = 0; line < longestList(texts); line++) {
      let column = 0;
      out.push(`│${
        row.map((cell, i) => {
          const span = spanOf(cell), width = widths.slice(column, column += span).reduce((a, b) => a + b + 3, -3);
          return ` ${(texts[i]![line] ?? "").padEnd(width)} │`;
        }).join("")
      }`);
    }
    return out;
  };
  return [
    rule("┌", "┬", "┐"),
    ...draw(head, head.map((text) => [text])),
    rule("├", "┼", "┤"),
    ...rows.flatMap((row, i) => draw(row, lines[i]!)),
    rule("└", "┴", "┘"),
  ].join("\n");
}

function spanOf(cell: Cell): number {
  return typeof cell === "object" ? cell.span : 1;
}

function longest(lines: readonly string[]): number {
  return lines.reduce((most, line) => Math.max(most, line.length), 0);
}

function longestList(lists: readonly (readonly string[])[]): number {
  return lists.reduce((most, list) => Math.max(most, list.length), 1);
}
