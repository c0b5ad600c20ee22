/** Tables of words, for the terminal or as Markdown. */

/** Rows of equal length under a head. */
export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** The table as text; all columns but the first are numbers, and so end flush. */
export function printTable({ head, rows }: Table, markdown: boolean): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const pad = (cell: string, column: number) =>
    column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!);
  if (!markdown) return all.map((row) => row.map(pad).join("   ").trimEnd()).join("\n");
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const rule = widths.map((width, column) => "-".repeat(Math.max(2, width - 1)) + (column === 0 ? "-" : ":"));
  return [line(head.map(pad)), line(rule), ...rows.map((row) => line(row.map(pad)))].join("\n");
}

/** A time with three digits that say something. */
export function milliseconds(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Bytes as MiB. */
export function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
