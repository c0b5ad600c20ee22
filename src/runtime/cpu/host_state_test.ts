import assert from "node:assert/strict";
import { dimAdd, symbol } from "../../core/dim.ts";
import { fromNumbers, toNumbers } from "../../core/host_tensor.ts";
import { HostState } from "./host_state.ts";

const [batch, past, sequence] = ["batch", "past", "sequence"].map((name) => symbol(name)) as [
  ReturnType<typeof symbol>,
  ReturnType<typeof symbol>,
  ReturnType<typeof symbol>,
];
const FROM = { dtype: "f32", shape: [batch, 2, past, 3] } as const;
const TO = { dtype: "f32", shape: [batch, 2, dimAdd(past, sequence), 3] } as const;
const ENCODED = { dtype: "f32", shape: [batch, 2, sequence, 3] } as const;

/** Fills a state with the numbers of a step: row r holds 100·r and more. */
function write(state: HostState, name: string, length: number): void {
  const dims = [state.batch, 2, length, 3], row = 2 * length * 3;
  const { bytes } = state.next(name, { dtype: "f32", dims }, true);
  const tensor = fromNumbers(
    "f32",
    dims,
    Array.from({ length: state.batch * row }, (_, i) => 100 * Math.floor(i / row) + i % row),
  );
  new Float32Array(bytes.buffer, bytes.byteOffset, tensor.data.length).set(tensor.data as Float32Array);
  state.advance(name, tensor, true);
}

function firstOfRows(state: HostState, name: string): number[] {
  const tensor = state.get(name, true), row = tensor.data.length / state.batch;
  return Array.from({ length: state.batch }, (_, r) => toNumbers(tensor)[r * row]!);
}

for (const inPlace of [undefined, 2]) {
  Deno.test(`HostState moves rows, and what steps leave as it is only if asked (${inPlace ? "in place" : "in turns"})`, () => {
    const state = new HostState(3, [{ input: "k", from: FROM, to: TO, inPlace }, {
      input: "e",
      from: ENCODED,
      to: undefined,
    }]);
    write(state, "k", 2);
    write(state, "e", 4);
    state.reorder([2, 0, 0], { kept: false });
    assert.deepEqual(firstOfRows(state, "k"), [200, 0, 0]);
    assert.deepEqual(firstOfRows(state, "e"), [0, 100, 200]);
    state.reorder([1, 2, 0], { kept: true });
    assert.deepEqual(firstOfRows(state, "k"), [0, 0, 200]);
    assert.deepEqual(firstOfRows(state, "e"), [100, 200, 0]);
    assert.throws(() => state.reorder([0, 3, 1], { kept: false }), /Cannot reorder a state of 3 rows by \[0,3,1\]/);
  });
}

Deno.test("HostState starts empty along the dim that grows, with the head size that the result tells", () => {
  const open = { dtype: "f32", shape: [batch, 2, past, symbol("kv_cache_dim")] } as const;
  const state = new HostState(4, [{ input: "k", from: open, to: TO }, { input: "e", from: ENCODED, to: undefined }]);
  assert.deepEqual(state.get("k").shape, [4, 2, 0, 3]);
  assert.deepEqual(state.get("e").shape, [0, 2, 0, 3]);
  assert.throws(() => new HostState(1, [{ input: "x", from: TO, to: TO }]), /no dim of .* grows/);
});
