// deno-lint-ignore-file no-console -- a user's program
/** A rank with a fault: `fault.ts MODE RANK [DELAY]`. Rank RANK fails in the way MODE after DELAY ms; the others wait. */
import { InputError } from "../../../src/core/errors.ts";
import { reportCollectiveFailure, reportUserError, reportVictim } from "../../../src/core/exit_report.ts";
import { detectLaunchEnv } from "../../../src/core/launch_env.ts";

const [mode = "exit:1", faulty = "0", delay = "0"] = Deno.args;
const me = detectLaunchEnv(Deno.env.toObject());
const sleep = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));
if (mode === "leave-shm") Deno.writeTextFileSync(`/dev/shm/shardwise-${me.runId}-arena-${me.rank}`, "x");
console.log(`rank ${me.rank} is up`);
if (Number(faulty) === me.rank || faulty === "all") {
  await sleep(Number(delay));
  await fail();
} else if (mode === "victims" || mode === "late-cause") {
  await sleep(Number(delay) + 20);
  reportVictim({
    lost: Number(faulty),
    message: `lost rank ${faulty} in tp#allReduce seq 3`,
    lastCollective: "tp#allReduce seq 3",
  });
} else await sleep(60_000);

function deep(n: number): never {
  if (n > 0) deep(n - 1);
  throw new TypeError("x is undefined");
}

/** Reads where no memory is, as broken native code does. (Deno swallows a SIGSEGV that is merely sent.) */
function crash(): never {
  throw new Error(`read ${new Deno.UnsafePointerView(Deno.UnsafePointer.create(8n)!).getInt32()}`);
}

async function fail(): Promise<void> {
  const [kind, value] = mode.split(":");
  switch (kind) {
    case "exit":
      Deno.exit(Number(value));
      break;
    case "throw":
      return deep(3);
    case "timer":
      setTimeout(() => deep(0), 1);
      return await sleep(60_000);
    case "reject":
      void Promise.reject(new RangeError("nobody catches this"));
      return await sleep(60_000);
    case "signal":
      Deno.kill(Deno.pid, value as Deno.Signal);
      return await sleep(60_000);
    case "crash":
    case "victims":
      return crash();
    case "late-cause":
      // The victims end first, as when the kernel takes its time over a large core dump.
      await sleep(200);
      return crash();
    case "import":
      await import("./does_not_exist.ts" + "");
      return;
    case "oom": {
      const kept: number[][] = [];
      for (;;) kept.push(new Array(100_000).fill(kept.length + 0.5));
    }
    case "handled":
      addEventListener("error", (event) => event.preventDefault());
      setTimeout(() => deep(0), 1);
      await sleep(1500);
      return console.log("went on");
    case "hang-in-exit": {
      // What a native library does that joins its threads when the process exits, and one of them never ends.
      const libc = Deno.dlopen("libc.so.6", {
        pause: { type: "pointer" },
        __cxa_atexit: { parameters: ["pointer", "pointer", "pointer"], result: "i32" },
      });
      libc.symbols.__cxa_atexit(libc.symbols.pause, null, null);
      if (value === "exit") Deno.exit(6);
      return deep(0);
    }
    case "user":
      return reportUserError(new InputError("no model called gpt", { hint: "give a .onnx file" }), 3);
    case "collective":
      return reportCollectiveFailure({
        message: "allReduce seq 412: rank 2 is missing after 60 s",
        lastCollective: "tp#allReduce seq 411",
      });
    case "leave-shm":
      Deno.exit(9);
      break;
    case "done":
      return;
    case "grandchild":
      // One in the rank's process group, one in a session of its own.
      new Deno.Command("sleep", { args: ["60"] }).spawn();
      new Deno.Command("setsid", { args: ["sleep", "60"] }).spawn();
      await sleep(100);
      Deno.exit(5);
  }
}
