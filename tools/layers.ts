/** The order of the rooms, and which imports break it. */

/** Level of every room: a file imports from its own room and from rooms of a lower level, never sideways. */
export const LEVELS: Readonly<Record<string, number>> = {
  "src/core": 0,
  "src/graph": 1,
  "src/ffi": 1,
  "src/trace": 1,
  "src/ops": 2,
  "src/formats": 3,
  "src/plan": 3,
  "src/passes": 4,
  "src/layers": 5,
  "src/train": 5,
  "src/program": 6,
  "src/runtime": 7,
  "src/generate": 8,
  "src/report": 8,
  "src": 9,
  "mod.ts": 10,
  "launcher": 10,
  "cli": 11,
};

/** Rooms that only these rooms import. */
export const ONLY: Readonly<Record<string, readonly string[]>> = { "src/ffi": ["src/runtime"] };

/** Rooms that import from these rooms only. */
export const SEES: Readonly<Record<string, readonly string[]>> = { "launcher": ["src/core"] };

/** An import, as paths relative to the repository's root with forward slashes. */
export interface Edge {
  readonly from: string;
  readonly to: string;
}

/** The room that a file belongs to, or undefined for tests, examples and tools, which may import anything. */
export function roomOf(path: string): string | undefined {
  if (path === "mod.ts") return path;
  const parts = path.split("/");
  if (parts[0] === "src") return parts.length > 2 ? `src/${parts[1]}` : "src";
  return parts[0] === "cli" || parts[0] === "launcher" ? parts[0] : undefined;
}

/** Why an import breaks the order, or undefined if it does not. */
export function offence({ from, to }: Edge): string | undefined {
  const a = roomOf(from), b = roomOf(to);
  if (a === undefined || a === b || to === "deno.json") return undefined;
  if (b === undefined) return `${a} imports ${to}, which is in no room`;
  const sees = SEES[a], only = ONLY[b];
  if (sees) return sees.includes(b) ? undefined : `${a} sees only ${sees.join(", ")}`;
  if (only) return only.includes(a) ? undefined : `only ${only.join(", ")} imports ${b}`;
  const [high, low] = [LEVELS[a], LEVELS[b]];
  if (high === undefined || low === undefined) return `the room ${high === undefined ? a : b} has no level`;
  return low < high ? undefined : `${a} is level ${high}, ${b} level ${low}`;
}
