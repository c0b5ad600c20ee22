/**
 * A tiny WebAssembly assembler: just the instructions that reductions need, as functions that give bytes.
 *
 * Source: WebAssembly 2.0 core specification, section 5 (binary format).
 */

/** Machine code: instructions, one after the other. */
export type Code = readonly number[];

/** Value types. */
export const I32 = 0x7f, F64 = 0x7c, V128 = 0x7b;

/** `local.get`, `local.set`, `local.tee` of local `index`. */
export function get(index: number): Code {
  return [0x20, index];
}
export function set(index: number): Code {
  return [0x21, index];
}
export function tee(index: number): Code {
  return [0x22, index];
}

/** `i32.const value`. */
export function i32(value: number): Code {
  return [0x41, ...signedLeb(value)];
}

/** Scalar instructions without operands. */
export const I32_ADD: Code = [0x6a], I32_LT_U: Code = [0x49], F32_DEMOTE_F64: Code = [0xb6];

/** `i32.load offset`. */
export function loadI32(offset: number): Code {
  return [0x28, 2, ...leb(offset)];
}

/** `loop … br_if 0 end`: the body leaves the condition to go on. */
export function loopWhile(body: Code): Code {
  return [0x03, 0x40, ...body, 0x0d, 0, 0x0b];
}

/** `if … end` over the condition on the stack. */
export function when(body: Code): Code {
  return [0x04, 0x40, ...body, 0x0b];
}

/** A SIMD instruction by its number. */
export function simd(opcode: number): Code {
  return [0xfd, ...leb(opcode)];
}

/** A SIMD memory access at `offset`; no alignment is promised. */
export function simdMemory(opcode: number, offset: number): Code {
  return [0xfd, ...leb(opcode), 0, ...leb(offset)];
}

/** `v128.const` of four equal 32-bit lanes. */
export function splat32(bits: number): Code {
  return lanes([bits, bits, bits, bits]);
}

/** `v128.const` of two equal 64-bit lanes, given by halves. */
export function splat64(high: number, low: number): Code {
  return lanes([low, high, low, high]);
}

/** A module that imports `env.memory` and exports one function `run` of `parameters` without result. */
export function moduleOf(
  parameters: Code,
  locals: readonly (readonly [count: number, type: number])[],
  body: Code,
): Uint8Array<ArrayBuffer> {
  const name = (text: string) => vector([...text].map((c) => [c.charCodeAt(0)]));
  const declared = vector(locals.map(([count, type]) => [...leb(count), type]));
  const code = [...declared, ...body, 0x0b];
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector([[0x60, ...vector(parameters.map((p) => [p])), 0]])),
    // A memory of at least one page and at most 65536: any memory of ours can be given.
    ...section(2, vector([[...name("env"), ...name("memory"), 2, 1, 1, ...leb(65536)]])),
    ...section(3, vector([[0]])),
    ...section(7, vector([[...name("run"), 0, 0]])),
    ...section(10, vector([[...leb(code.length), ...code]])),
  ]);
}

function section(id: number, content: Code): Code {
  return [id, ...leb(content.length), ...content];
}

function vector(items: readonly Code[]): Code {
  return [...leb(items.length), ...items.flat()];
}

function lanes(words: readonly number[]): Code {
  return [...simd(12), ...new Uint8Array(new Uint32Array(words).buffer)];
}

function leb(value: number): Code {
  const out = [];
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) | 128);
  return [...out, value];
}

function signedLeb(value: number): Code {
  const out = [];
  for (; value < -64 || value > 63; value >>= 7) out.push((value & 127) | 128);
  return [...out, value & 127];
}
