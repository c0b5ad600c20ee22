/**
 * Megatron's MLP, written in TypeScript: column-parallel, Gelu, row-parallel, with one all-reduce at its end.
 *
 * The weights are drawn at random, the same at any number of ranks, so what N ranks compute together can be compared with
 * what one rank computes alone.
 *
 *     deno task launch --nproc 3 examples/layers.ts
 */
// deno-lint-ignore-file no-console
import { fromNumbers, toNumbers } from "../src/core/host_tensor.ts";
import { gelu, Lambda } from "../src/layers/activations.ts";
import { ColumnParallelLinear } from "../src/layers/column_parallel_linear.ts";
import { Sequential } from "../src/layers/module.ts";
import { RowParallelLinear } from "../src/layers/row_parallel_linear.ts";
import { compileModule, runModule } from "../src/module_session.ts";
import { init } from "../src/runtime/comm/init.ts";
import { LocalCommunicator } from "../src/runtime/comm/local.ts";

const HIDDEN = 32, INNER = 100, ROWS = 4; // 100 inner features: 34, 33 and 33 on three ranks

await using comm = await init();

const mlp = new Sequential(
  new ColumnParallelLinear({ inFeatures: HIDDEN, outFeatures: INNER, gatherOutput: false }),
  new Lambda(gelu),
  new RowParallelLinear({ inFeatures: INNER, outFeatures: HIDDEN, inputIsParallel: true }),
);
mlp.initialize({ seed: 1 });

const x = fromNumbers("f32", [ROWS, HIDDEN], Array.from({ length: ROWS * HIDDEN }, (_, i) => Math.sin(i)));
await using model = await compileModule(mlp, { comm, inputs: { x: { dtype: "f32", shape: [ROWS, HIDDEN] } } });
const { output } = await model.run({ x });

if (comm.rank === 0) {
  await using alone = new LocalCommunicator();
  const { output: expected } = await runModule(mlp, { x }, { comm: alone });
  const [a, b] = [toNumbers(output!), toNumbers(expected!)];
  const largest = Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));
  const { rank, whole } = model.weightBytes;
  console.log(`rank 0 of ${comm.size} holds ${rank} of ${whole} bytes of weights`);
  console.log(`largest difference from one rank alone: ${largest.toExponential(1)}`);
  if (!(largest < 1e-5)) throw new Error(`${comm.size} ranks and one rank compute different numbers`);
}
