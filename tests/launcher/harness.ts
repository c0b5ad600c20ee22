/** Starts real launchers for tests, and checks that nothing of them is left. */
import assert from "node:assert/strict";

/** How a launcher ended. */
export interface Run {
  readonly code: number;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly ms: number;
}

/** A launcher that runs. */
export interface Running {
  readonly pid: number;
  /** A variable that all processes of the job carry. */
  readonly mark: string;
  readonly kill: (signal: Deno.Signal) => void;
  /** Resolves once stdout and stderr together contain `text` `times` times. */
  readonly said: (text: string, times?: number) => Promise<void>;
  readonly done: Promise<Run>;
}

const MAIN = new URL("../../launcher/main.ts", import.meta.url).pathname;

/** The path of a program for ranks. */
export function program(name: string): string {
  return new URL(`programs/${name}`, import.meta.url).pathname;
}

/** Variables that tests must not inherit from whoever runs them. */
function cleanEnv(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(Deno.env.toObject()).filter(([name]) =>
      !/^(SHARDWISE_|PET_|SLURM_|OMPI_|PMI|RANK$|WORLD_SIZE$|LOCAL_|MASTER_|NODE_RANK$|NNODES$|OMP_NUM|FORCE_COLOR$)/
        .test(name)
    ),
  );
}

/** `ms`, as long as this machine has no other work to do; several times that when it has. */
export function patience(ms: number): number {
  return Deno.loadavg()[0]! > 1.5 * navigator.hardwareConcurrency ? 8 * ms : ms;
}

/** Starts a launcher. It is killed after `limitMs` (default 20 s, more under load), which fails the test by its exit code. */
export function start(
  args: readonly string[],
  options: { env?: Record<string, string>; limitMs?: number; command?: readonly string[]; stdin?: string } = {},
): Running {
  const mark = crypto.randomUUID();
  const begun = performance.now();
  const [command, ...rest] = options.command ?? [Deno.execPath(), "run", "-A", MAIN];
  const child = new Deno.Command(command!, {
    args: [...rest, ...args],
    env: { ...cleanEnv(), NO_COLOR: "1", TEST_MARK: mark, ...options.env },
    clearEnv: true,
    stdin: options.stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  if (options.stdin !== undefined) {
    const writer = child.stdin.getWriter();
    writer.write(new TextEncoder().encode(options.stdin)).then(() => writer.close()).catch(() => {});
  }
  const text = { stdout: "", stderr: "" };
  const listeners = new Set<() => void>();
  const read = async (stream: ReadableStream<Uint8Array>, name: "stdout" | "stderr") => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      text[name] += decoder.decode(chunk, { stream: true });
      for (const listener of listeners) listener();
    }
  };
  const streams = Promise.all([read(child.stdout, "stdout"), read(child.stderr, "stderr")]);
  const limit = setTimeout(() => child.kill("SIGKILL"), options.limitMs ?? patience(20_000));
  const done = child.status.then(async (status) => {
    clearTimeout(limit);
    const ms = performance.now() - begun;
    await streams;
    return { code: status.code, signal: status.signal, ms, ...text };
  });
  const said = (what: string, times = 1): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const look = () => {
      if ((text.stdout + text.stderr).split(what).length > times) resolve();
    };
    listeners.add(look);
    look();
    done.then(() =>
      reject(new Error(`the launcher ended before it said ${JSON.stringify(what)}: ${text.stdout}${text.stderr}`))
    );
    return promise.finally(() => listeners.delete(look));
  };
  return {
    pid: child.pid,
    mark,
    said,
    done,
    kill: (signal) => {
      try {
        child.kill(signal);
      } catch {
        // It has ended.
      }
    },
  };
}

/** Runs a launcher to its end and checks that it left nothing. */
export async function run(args: readonly string[], options: Parameters<typeof start>[1] = {}): Promise<Run> {
  const running = start(args, options);
  const result = await running.done;
  await assertNothingLeft(running);
  return result;
}

/** Pids of live processes that carry `mark` in their environment. Zombies do not count: they wait for their parent only. */
export function alive(mark: string): number[] {
  const found: number[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      if (!Deno.readTextFileSync(`/proc/${name}/environ`).includes(mark)) continue;
      if (/^\S+ \(.*\) [ZX]/s.test(Deno.readTextFileSync(`/proc/${name}/stat`))) continue;
      found.push(Number(name));
    } catch {
      // It has just ended, or is somebody else's.
    }
  }
  return found;
}

/** Fails if processes, shared memory or temporary folders of a job are still there `withinMs` from now. */
export async function assertNothingLeft(job: { pid: number; mark: string }, withinMs = 1000): Promise<void> {
  const deadline = performance.now() + patience(withinMs);
  let left: string[];
  do {
    left = [...alive(job.mark).map((pid) => `process ${pid}`), ...files(job.pid)];
    if (left.length === 0) return;
    await new Promise((done) => setTimeout(done, 20));
  } while (performance.now() < deadline);
  assert.deepEqual(left, [], "something of the job is left");
}

/** Shared memory and temporary folders of the launcher `pid`. */
export function files(pid: number): string[] {
  return ["/dev/shm", Deno.env.get("TMPDIR") ?? "/tmp"].flatMap((dir) => {
    try {
      return [...Deno.readDirSync(dir)].map((entry) => entry.name).filter((name) =>
        name.startsWith(`shardwise-${pid}-`)
      ).map((name) => `${dir}/${name}`);
    } catch {
      return [];
    }
  });
}

/** The lines of the report, which has to be the last thing on stderr and at most 40 lines. */
export function report(run: Run): string[] {
  const lines = run.stderr.trimEnd().split("\n");
  const at = lines.findLastIndex((line) => /^shardwise: job \S+ (FAILED|STOPPED)/.test(line));
  assert.ok(at >= 0, `no report in:\n${run.stderr}`);
  const found = lines.slice(at);
  assert.ok(found.length <= 40, `the report has ${found.length} lines`);
  for (const line of found.slice(1)) assert.match(line, /^ {2}/, "something follows the report");
  return found;
}

/** The report's line on the cause. */
export function causeLine(run: Run): string {
  return report(run).find((line) => line.startsWith("  cause")) ?? assert.fail(`no cause in:\n${run.stderr}`);
}
