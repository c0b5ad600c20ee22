/** A rank that runs a model, a module and a broadcast in a group of the job's last ranks, or in one of the rank alone; prints what it got. */
import { toNumbers } from "../../../src/core/host_tensor.ts";
import { hostTensor } from "../../../src/core/host_tensor.ts";
import { Linear } from "../../../src/layers/linear.ts";
import { runModule } from "../../../src/module_session.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../../src/session.ts";

const x = hostTensor("f32", [1, 3, 32], Float32Array.from({ length: 96 }, (_, i) => Math.sin(i)));
await using world = await init();
// The first rank of the job is in another group, and the group counts its ranks from the other end.
const comm = (await world.split(world.rank === 0 ? 0 : 1, world.size - world.rank))!;
await using model = await parallelizeModel(Deno.args[0]!, { comm });
const { y } = await model.run({ x });
const layer = new Linear({ inFeatures: 32, outFeatures: 5 });
layer.initialize({ seed: 4 });
const { output } = await runModule(layer, { x }, { comm });
const from = Float32Array.of(comm.rank);
await comm.broadcast(from, comm.size - 1);
// deno-lint-ignore no-console
console.log(JSON.stringify({
  group: comm.size,
  from: from[0],
  y: Array.from(toNumbers(y!)),
  output: Array.from(toNumbers(output!)),
}));
