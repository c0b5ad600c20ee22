/** Slurm's short forms: host lists such as `node[001-003,007],gpu5` and counts such as `2(x3),1`. */
import { UsageError } from "./errors.ts";

const MOST_HOSTS = 65_536;

/**
 * The hosts of a Slurm node list, in order. We expand it ourselves since `scontrol` is missing in containers.
 *
 * @throws {UsageError} If a bracket or a range is malformed, or the list names more than 65,536 hosts.
 */
export function expandHostList(text: string): string[] {
  const hosts = split(text).flatMap(expand);
  if (hosts.length > MOST_HOSTS) throw malformed(text, `it names ${hosts.length} hosts`);
  return hosts;
}

/** How many tasks node `index` has in a list such as `2(x3),1`; undefined if the list is shorter or malformed. */
export function tasksOnNode(list: string, index: number): number | undefined {
  let first = 0;
  for (const part of list.split(",")) {
    const m = /^(\d+)(?:\(x(\d+)\))?$/.exec(part.trim());
    if (m === null) return undefined;
    first += Number(m[2] ?? 1);
    if (index < first) return Number(m[1]);
  }
  return undefined;
}

/** Splits at commas outside of brackets. */
function split(text: string): string[] {
  const parts: string[] = [];
  let depth = 0, start = 0;
  for (let i = 0; i <= text.length; i++) {
    const c = text[i];
    if (c === "[") depth++;
    else if (c === "]") depth--;
    if (depth < 0 || depth > 1) throw malformed(text, "brackets do not match");
    if (i === text.length ? depth === 0 : c === "," && depth === 0) {
      if (i > start) parts.push(text.slice(start, i).trim());
      start = i + 1;
    }
  }
  if (depth !== 0) throw malformed(text, "brackets do not match");
  return parts;
}

function expand(part: string): string[] {
  const open = part.indexOf("[");
  if (open < 0) return [part];
  const close = part.indexOf("]", open);
  const head = part.slice(0, open), tails = expand(part.slice(close + 1));
  const hosts: string[] = [];
  for (const range of part.slice(open + 1, close).split(",")) {
    const m = /^(\d+)(?:-(\d+))?$/.exec(range.trim());
    if (m === null) throw malformed(part, `${JSON.stringify(range)} is no range`);
    const from = Number(m[1]), to = Number(m[2] ?? m[1]);
    if (to < from || to - from >= MOST_HOSTS) throw malformed(part, `${JSON.stringify(range)} is no range`);
    for (let n = from; n <= to; n++) {
      const index = String(n).padStart(m[1]!.length, "0");
      for (const tail of tails) hosts.push(head + index + tail);
    }
  }
  return hosts;
}

function malformed(text: string, why: string): UsageError {
  return new UsageError(`Cannot expand the node list ${JSON.stringify(text)}: ${why}`);
}
