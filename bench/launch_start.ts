/**
 * From the launcher's start to user code on the last rank, and past a first barrier at the store: `deno run -A bench/launch_start.ts
 * [ROUNDS] [RANKS…]`. Runs mpirun and torchrun beside it, in the same rounds, where they are installed. Prints medians in ms.
 */

const ROOT = new URL("..", import.meta.url).pathname;
const BARRIER = `${ROOT}bench/launch_start_rank.ts`;
const [rounds = 5, ...sizes] = Deno.args.map(Number);
const RANKS = sizes.length > 0 ? sizes : [1, 2, 8, 32];

interface Contender {
  readonly name: string;
  readonly command: (ranks: number) => readonly string[];
  readonly env?: Record<string, string>;
}

const DENO = Deno.execPath();
const CONTENDERS: Contender[] = [
  { name: "shardwise", command: (n) => [DENO, "run", "-A", `${ROOT}launcher/main.ts`, "--nproc", `${n}`, BARRIER] },
  {
    name: "shardwise, through deno task",
    command: (n) => [DENO, "task", "--quiet", "--config", `${ROOT}deno.json`, "launch", "--nproc", `${n}`, BARRIER],
  },
  {
    name: "mpirun, the same program, no barrier",
    command: (n) => ["mpirun", "--oversubscribe", "-n", `${n}`, DENO, "run", "-A", BARRIER],
    env: { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
  },
  {
    name: "torchrun, a Python program without torch",
    command: (n) => ["torchrun", "--nproc-per-node", `${n}`, `${ROOT}bench/launch_start_rank.py`],
  },
];

const times = new Map<string, { user: number[]; barrier: number[] }>();
for (let round = 0; round < rounds; round++) {
  for (const ranks of RANKS) {
    for (const contender of CONTENDERS) {
      const found = await measure(contender, ranks);
      if (found === undefined) continue;
      const key = `${contender.name}\t${ranks}`;
      const kept = times.get(key) ?? { user: [], barrier: [] };
      kept.user.push(found.user);
      if (found.barrier !== undefined) kept.barrier.push(found.barrier);
      times.set(key, kept);
    }
  }
}
const lines = ["launcher\tranks\tuser code, ms\tpast a barrier, ms"];
for (const [key, { user, barrier }] of times) {
  lines.push(`${key}\t${median(user)}\t${barrier.length === 0 ? "-" : median(barrier)}`);
}
Deno.stdout.writeSync(new TextEncoder().encode(lines.join("\n") + "\n"));

async function measure(
  contender: Contender,
  ranks: number,
): Promise<{ user: number; barrier: number | undefined } | undefined> {
  const [command, ...args] = contender.command(ranks);
  const begun = Date.now();
  let text: string;
  try {
    const { stdout, code } = await new Deno.Command(command!, {
      args,
      env: contender.env ?? {},
      stdout: "piped",
      stderr: "null",
    }).output();
    if (code !== 0) return undefined;
    text = new TextDecoder().decode(stdout);
  } catch {
    return undefined; // not installed
  }
  const stamps = (word: string) =>
    [...text.matchAll(new RegExp(`${word} (\\d+)`, "g"))].map((m) => Number(m[1]) - begun);
  if (stamps("user").length !== ranks) return undefined;
  const barrier = stamps("barrier");
  return { user: Math.max(...stamps("user")), barrier: barrier.length === ranks ? Math.max(...barrier) : undefined };
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
