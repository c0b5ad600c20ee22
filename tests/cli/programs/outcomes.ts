// deno-lint-ignore-file no-console
/** Ranks of which some fail: prints what each is told, as JSON. Argument: `alike`, `after` or `within`. */
import { Outcomes } from "../../../cli/ranks/outcomes.ts";
import { init } from "../../../src/runtime/comm/init.ts";

const [how] = Deno.args;
await using comm = await init();
const outcomes = await Outcomes.open(comm, 500), told: string[] = [];

async function step(name: string, run: () => Promise<string>): Promise<void> {
  try {
    told.push(`${name}: ${await outcomes.of(run)}`);
  } catch (error) {
    told.push(`${name}: ${(error as Error).name}: ${(error as Error).message}`);
    if ((error as Error).name !== "TypeError" && (error as Error).name !== "ShardwiseError") {
      console.log(JSON.stringify(told));
      Deno.exit((error as { exitCode?: number }).exitCode ?? 1);
    }
  }
}

await step("first", async () => {
  if (how === "alike") throw new TypeError("everywhere");
  if (how === "within" && comm.rank === 1) throw new TypeError("here");
  // What a model does on all of its ranks.
  await comm.barrier();
  if (how === "after" && comm.rank === 1) throw new TypeError("here");
  return "fine";
});
await step("second", async () => {
  await comm.barrier();
  return "fine";
});
console.log(JSON.stringify(told));
