/** Modules on several ranks against reference cases: what the tests of layers and losses share. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type HostTensor, hostTensorFromBytes, toNumbers } from "../../src/core/host_tensor.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { verify } from "../../src/graph/verify.ts";
import type { Module } from "../../src/layers/module.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { runLockstep } from "../support/lockstep.ts";
import { REPOSITORY, sharedOrSkip } from "../support/shared.ts";

/** World sizes at which all cases run; the smallest dims are cut to nothing at the last. */
export const WORLD_SIZES = [1, 2, 3, 4, 8];

/** A case of `cases.json`, of which tests read what they need. */
export interface Case {
  readonly name: string;
  readonly file: string;
  readonly float32_error: Readonly<Record<string, number>>;
}

/** Cases of `folder` in tests/data/training, and then those that only the shared folder has. */
export function casesOf<C extends Case>(folder: string): { readonly root: string; readonly case: C }[] {
  const own = join(REPOSITORY, "tests/data/training", folder);
  const shared = sharedOrSkip(`training/${folder}`);
  const all: { root: string; case: C }[] = [];
  for (const root of [own, ...(shared ? [shared] : [])]) {
    const { cases } = JSON.parse(Deno.readTextFileSync(join(root, "cases.json"))) as { cases: C[] };
    for (const c of cases) {
      const isKnown = all.some((known) => known.case.name === c.name);
      if (!isKnown && existsSync(join(root, c.file))) all.push({ root, case: c });
    }
  }
  return all;
}

/** The tensors of a case's file. */
export function tensorsOf(root: string, { file }: Case): Map<string, HostTensor> {
  using opened = openSafetensors(join(root, file));
  return new Map(
    [...opened.tensors].map(([name, t]) => [name, hostTensorFromBytes(t.dtype, t.shape, t.bytes().slice())]),
  );
}

/** The tensors whose names begin with `prefix`, without it. */
export function within(tensors: ReadonlyMap<string, HostTensor>, prefix: string): Map<string, HostTensor> {
  return new Map(
    [...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, t]) => [name.slice(prefix.length), t]),
  );
}

/** The first result of `module` on every rank. */
export async function runOnRanks(
  module: Module,
  inputs: ReadonlyMap<string, HostTensor>,
  ranks: number,
): Promise<HostTensor[]> {
  const types = Object.fromEntries([...inputs].map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  const graph = module.trace(types, { ranks });
  const locals = Array.from({ length: ranks }, (_, r) => localize(graph, r, ranks));
  locals.forEach((local) => verify(local));
  const results = await runLockstep(await openNativeEngine(), locals, locals.map(() => inputs));
  return results.map((r) => r[0]!);
}

/**
 * Holds every rank's result against the reference: ten times what rounding alone does to the reference, at least a few
 * units in the last place of its largest value; NaN and infinities must be the same.
 */
export function assertClose(
  found: readonly HostTensor[],
  expected: HostTensor,
  float32Error: number,
  what: string,
): void {
  const want = toNumbers(expected);
  let largest = 0;
  for (let i = 0; i < want.length; i++) if (Number.isFinite(want[i]!)) largest = Math.max(largest, Math.abs(want[i]!));
  const tolerance = Math.max(10 * float32Error, 8 * 2 ** -24 * largest, 2 ** -30);
  for (const [rank, tensor] of found.entries()) {
    assert.deepEqual([...tensor.shape], [...expected.shape], `${what}, rank ${rank}: shape`);
    assert.equal(tensor.dtype, "f32", `${what}, rank ${rank}: dtype`);
    const got = toNumbers(tensor);
    for (let i = 0; i < want.length; i++) {
      const same = Object.is(got[i], want[i]) || Math.abs(got[i]! - want[i]!) <= tolerance;
      assert.ok(same, `${what}, rank ${rank}, element ${i}: ${got[i]} is not ${want[i]} within ${tolerance}`);
    }
  }
}
