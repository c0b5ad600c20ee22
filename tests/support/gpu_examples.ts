/** Examples of ops on a GPU, against ONNX Runtime on the CPU. */
import assert from "node:assert/strict";
import { dependsOnData } from "../../src/core/dim.ts";
import type { DType } from "../../src/core/dtype.ts";
import { type HostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { type Graph, isCall, opKey, outputOf, valueOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import type { OpDef, OpExample } from "../../src/ops/def.ts";
import { loweringOf } from "../../src/ops/kernels/table.ts";
import { localize } from "../../src/passes/localize.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import type { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { GpuExecutor } from "../../src/runtime/cuda/executor.ts";
import type { NamedText } from "../../src/runtime/cuda/kernel_texts.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { emulatedStep } from "./emulated.ts";
import { exampleGraph } from "./op_examples.ts";

/** An example as one rank's graph. */
export interface GpuCase {
  readonly name: string;
  readonly local: Graph<"local">;
  readonly feeds: ReadonlyMap<string, HostTensor>;
  /** In what f32 is held on the GPU; itself by default. */
  readonly float?: DType;
}

/** A case of `example`; undefined where the op has no kernel, or where only data tells the size of what it gives. */
export function gpuCase(def: OpDef, example: OpExample, label: string, float?: DType): GpuCase | undefined {
  const { graph, feeds } = exampleGraph(def, example);
  const isSized = outputOf(graph).inputs.every((n) => !valueOf(graph, n).type.shape?.some(dependsOnData));
  if (!loweringOf(graph.nodes.find(isCall)!) || !isSized) return undefined;
  const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: REPLICATE }] as const));
  const whole: Graph<"sharded"> = { ...graph, stage: "sharded", values };
  const name = `${opKey(def)} ${label}${float === undefined ? "" : ` in ${float}`}`;
  return { name, local: localize(whole, 0, 1), feeds, ...(float === undefined ? {} : { float }) };
}

const heldBy = ({ float }: GpuCase) => (dtype: DType): DType => (dtype === "f32" ? float ?? dtype : dtype);

/** The kernels that a case launches. */
export function kernelsOf(c: GpuCase): NamedText[] {
  const { commands } = lowerGraph(c.local, { bindings: new Map(), rank: 0, ranks: 1, held: heldBy(c) });
  return commands.flatMap((command) => (command.kind === "kernel" ? [command.launch.plain] : []));
}

/** How far elements may be apart: relative to their size, and to that of the largest, as sums that cancel are as exact as their terms. */
const TOLERANCE: Partial<Record<DType, { readonly own: number; readonly largest: number }>> = {
  f32: { own: 2e-5, largest: 1e-6 },
  f16: { own: 4e-3, largest: 4e-3 },
  bf16: { own: 3e-2, largest: 3e-2 },
};

/** @throws {assert.AssertionError} Unless the GPU gives for all cases what ONNX Runtime gives. */
export async function assertGpuCases(
  cases: readonly GpuCase[],
  { device, engine }: { readonly device: GpuDevice; readonly engine: Engine },
): Promise<void> {
  // One module for all of them: a compiler that starts once.
  device.kernels.load(cases.flatMap(kernelsOf));
  for (const c of cases) {
    const [expected] = await emulatedStep(engine, [c.local], [c.feeds]);
    using executor = new GpuExecutor(c.local, { device, rank: 0, ranks: 1, held: heldBy(c) });
    const results = await executor.run(Object.fromEntries(c.feeds));
    const tolerance = TOLERANCE[c.float ?? "f32"]!;
    outputOf(c.local).names.forEach((output, i) => {
      const got = results.get(output)!, wanted = expected![i]!;
      assert.deepEqual([got.dtype, ...got.shape], [wanted.dtype, ...wanted.shape], c.name);
      const [a, b] = [toNumbers(got), toNumbers(wanted)];
      const largest = Math.max(0, ...Array.from(b, Math.abs).filter(Number.isFinite));
      for (let k = 0; k < b.length; k++) {
        const limit = tolerance.own * (1 + Math.abs(b[k]!)) + tolerance.largest * largest;
        const same = Object.is(a[k], b[k]) || a[k] === b[k] || Math.abs(a[k]! - b[k]!) <= limit;
        assert.ok(same, `${c.name}: element ${k} is ${a[k]}, not ${b[k]}`);
      }
    });
  }
}
